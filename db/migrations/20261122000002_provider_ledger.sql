-- migrate:up

-- What the simulated payment provider, warehouse and carrier know. No table here refers to ours: a
-- real provider would not either, and the audit holds the two sets of books against each other.
create schema provider;

create table provider.ledger (
    entry_id bigint generated always as identity primary key,
    payment_id text not null,
    order_id text not null,
    kind text not null check (kind in ('charge', 'refund', 'void')),
    amount_cents bigint not null check (amount_cents >= 0),
    at timestamptz not null default clock_timestamp()
);
-- An idempotency key is charged once or called off for good, whichever comes first; refunded once.
create unique index ledger_one_fate on provider.ledger (payment_id) where kind in ('charge', 'void');
create unique index ledger_one_refund on provider.ledger (payment_id) where kind = 'refund';
create index ledger_order on provider.ledger (order_id);

create table provider.packages (
    package_key text primary key,
    order_id text not null,
    items jsonb,
    -- Null when the package was called off before it was packed; it never will be.
    packed_at timestamptz,
    recalled_at timestamptz
);
create index packages_order on provider.packages (order_id);

create table provider.parcels (
    shipment_key text primary key,
    order_id text not null,
    label_version int,
    label_address jsonb,
    tracking text,
    -- Null when the parcel was called off before it was handed over; it never will be.
    dispatched_at timestamptz,
    recalled_at timestamptz
);
create index parcels_order on provider.parcels (order_id);

-- What the outside does wrong, and since when. The newest row is in force.
create table fault_changes (
    change_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    profile text not null,
    seed bigint not null,
    rates jsonb not null
);

-- migrate:down
drop table fault_changes;
drop schema provider cascade;
