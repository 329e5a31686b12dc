-- The roles of mrg-orders, which cannot log in until they have passwords. For a superuser or a role that may create roles; they belong
-- to the whole server, so run it in a database that holds no orders, such as `postgres`. Idempotent.
SET search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mrg_orders_active', 'mrg_orders_history', 'mrg_orders_archiver'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', wanted);
        END IF;
    END LOOP;
END $$;
ALTER ROLE mrg_orders_active SET default_transaction_read_only = on;
ALTER ROLE mrg_orders_active SET statement_timeout = '2s';
ALTER ROLE mrg_orders_history SET default_transaction_read_only = on;
ALTER ROLE mrg_orders_history SET statement_timeout = '2s';
RESET search_path;

