-- Starts that admission control rejected, of the last day.

-- name: record
with expired as (
    delete from rejected_starts where at < now() - interval '1 day'
)
insert into rejected_starts (at, starts) values (date_trunc('second', now()), %(starts)s)
on conflict (at) do update set starts = rejected_starts.starts + excluded.starts;
