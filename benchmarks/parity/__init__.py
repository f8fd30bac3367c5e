"""Our scores beside those of the authors' own code on equal weights; their code is given by path."""
