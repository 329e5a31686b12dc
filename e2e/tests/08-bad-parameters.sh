# A parameter that PostgreSQL does not know, or cannot read, is refused with its own words; the last good ones stay in force.
source "$(dirname "$0")/lib.sh"
settled
stalled() { k get pgc $cluster -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].message}' | grep -q "$1"; }
running() { [ "$(k get pgc $cluster -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].status}')" = False ]; }
k patch pgc $cluster --type=merge -p '{"spec":{"postgresql":{"parameters":{"shared_bufers":"64MB"}}}}' >/dev/null
until_true "the unknown parameter is named in the Stalled condition" 30 stalled 'unrecognized configuration parameter "shared_bufers"'
k get pgc $cluster -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].message}' | sed 's/^/    /'
echo
k patch pgc $cluster --type=merge -p '{"spec":{"postgresql":{"parameters":{"shared_bufers":null,"work_mem":"4MegaBytes"}}}}' >/dev/null
until_true "the unreadable value is named" 30 stalled 'invalid value for parameter "work_mem"'
writer_start 10
k exec "$(leader)" -c postgres -- sh -c 'kill -9 $(head -n 1 /var/lib/postgresql/data/pgdata/postmaster.pid)'
writer_end
k patch pgc $cluster --type=merge -p '{"spec":{"postgresql":{"parameters":{"work_mem":"6MB"}}}}' >/dev/null
until_true "a good value ends the condition" 30 running
wait_healthy
