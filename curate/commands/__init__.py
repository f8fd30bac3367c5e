"""The commands, one file per verb or family of verbs: parse, call a stage, report. Heavy packages load inside them."""
