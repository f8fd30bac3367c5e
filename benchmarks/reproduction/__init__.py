"""The paper's claim in miniature: does training on the best pairs beat training on all of them?"""
