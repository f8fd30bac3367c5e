-- Purpose: the log-odds that the human's judgement is right, by a Bradley-Terry model of all scorers' margins.
-- Grain:   one eligible pair.
-- Inputs:  calibrated.
-- Source:  Bradley and Terry, Biometrika 39, 1952; fitted in the run, see curate/rank/metrics/calibration.py.
select
    pair_id,
    log_odds as quality
from calibrated
