"""The colours of pages and charts by role. After Okabe and Ito (2008): they stay apart in the common kinds of
colour blindness."""

PALETTES = {
    "light": {
        "ink": "#1d2023",
        "soft": "#62676d",
        "line": "#dcdfe3",
        "paper": "#ffffff",
        "all": "#b9bfc7",
        "chosen": "#0072b2",
        "rejected": "#d55e00",
        "s0": "#0072b2",
        "s1": "#d55e00",
        "s2": "#009e73",
        "s3": "#b5508c",
        "s4": "#8a6d00",
        "s5": "#3a3f45",
    },
    "dark": {
        "ink": "#e8eaed",
        "soft": "#a0a6ad",
        "line": "#383d43",
        "paper": "#1b1e22",
        "all": "#747c86",
        "chosen": "#56b4e9",
        "rejected": "#f0924c",
        "s0": "#56b4e9",
        "s1": "#f0924c",
        "s2": "#2fc59c",
        "s3": "#e08cc0",
        "s4": "#f0d24a",
        "s5": "#d5d9de",
    },
}
