-- Purpose: a prompt of a ranked pair that the table of prompts lacks, if there is one.
-- Grain:   at most one row.
-- Inputs:  ranked, eligible, prompts.
select eligible.prompt_id
from ranked
inner join eligible on ranked.pair_number = eligible.rowid
anti join prompts on eligible.prompt_id = prompts.prompt_id
order by eligible.prompt_id
limit 1
