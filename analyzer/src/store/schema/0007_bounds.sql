-- How much of a span was too much to be kept apart.
ALTER TABLE {database}.rollup_spans
    ADD COLUMN IF NOT EXISTS overflowed_requests UInt64 COMMENT 'Exchanges in it whose endpoint, peer or error counts as (overflow).';
