"""What every test may use. Nothing here reaches the network: hub look-ups fail at once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
