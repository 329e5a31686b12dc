-- The tables of mrg-orders. Idempotent: `mrg-orders schema --apply` runs it after every upgrade, as the role that owns the database.
-- Every name is qualified or PostgreSQL's own, so that neither the search path nor functions in other schemas change what it does.
SET client_min_messages = warning;
SET search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS public.orders (
    id         uuid PRIMARY KEY,
    customer   text NOT NULL,
    state      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL DEFAULT 1,
    detail     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS orders_by_customer ON public.orders (customer, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS orders_active ON public.orders (customer, created_at DESC, id DESC)
    WHERE state NOT IN ('completed', 'cancelled', 'cancelled_by_user', 'cancelled_by_driver', 'failed', 'expired');
CREATE INDEX IF NOT EXISTS orders_archivable ON public.orders (updated_at)
    WHERE state IN ('completed', 'cancelled', 'cancelled_by_user', 'cancelled_by_driver', 'failed', 'expired');

-- Where archived orders are. A row of this is some hundred bytes; the order itself is in object storage.
CREATE TABLE IF NOT EXISTS public.orders_archived (
    id         uuid PRIMARY KEY,
    customer   text NOT NULL,
    state      text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint NOT NULL,
    part       text NOT NULL
);
CREATE INDEX IF NOT EXISTS orders_archived_by_customer ON public.orders_archived (customer, created_at DESC, id DESC);

-- Versions rise with every change, whatever the writer thinks; and a final state is final.
CREATE OR REPLACE FUNCTION public.orders_before_update() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.state IN ('completed', 'cancelled', 'cancelled_by_user', 'cancelled_by_driver', 'failed', 'expired') AND NEW.state <> OLD.state THEN
        RAISE EXCEPTION 'order % is %, which is final; it cannot become %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER orders_before_update BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.orders_before_update();

-- Tells every mrg-orders which cached copy is old, in the moment in which the change is committed.
CREATE OR REPLACE FUNCTION public.orders_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('mrg_orders', NEW.id || ' ' || NEW.version);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER orders_changed AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.orders_changed();

GRANT SELECT ON public.orders TO mrg_orders_active, mrg_orders_history;
GRANT SELECT ON public.orders_archived TO mrg_orders_active, mrg_orders_history;
GRANT SELECT, DELETE ON public.orders TO mrg_orders_archiver;
GRANT SELECT, INSERT, UPDATE ON public.orders_archived TO mrg_orders_archiver;

-- Services write orders as the owner of the database, which may be another role than the one that makes the tables.
DO $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO %I', (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()));
END $$;
RESET search_path;
