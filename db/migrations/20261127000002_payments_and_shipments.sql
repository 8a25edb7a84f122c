-- migrate:up

create table payments (
    payment_id text primary key,
    order_id text collate "C" not null unique references orders on delete cascade,
    amount_cents bigint not null,
    currency text not null default 'USD',
    -- The provider's ids of the customer's card or account, and of the payment.
    method text,
    reference text,
    status text not null default 'pending' check (status in ('pending', 'charged', 'refunded', 'voided')),
    charged_at timestamptz,
    refunded_at timestamptz
) with (fillfactor = 70);

create table shipments (
    order_id text collate "C" primary key references orders on delete cascade,
    status text not null check (status in ('packed', 'dispatched', 'recalled')),
    tracking text,
    label_address jsonb,
    label_version int,
    packed_at timestamptz,
    dispatched_at timestamptz,
    recalled_at timestamptz
) with (fillfactor = 70);

-- migrate:down
drop table shipments, payments;
