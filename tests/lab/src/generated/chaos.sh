#!/bin/bash
# The programs of a chaos run. Each client does the same thing over and over until a file called `stop` exists,
# checks every answer, and ends with the first that is wrong. None connects twice but curl, which does so on purpose.
set -eu
what=$1 stop=$2
shift 2
wrong() { echo "WRONG: $*"; exit 1; }

case $what in
postgres) # DIRECTORY ADDRESS: a database server
    # Its own user has to reach it, whoever owns the run's directory.
    place=$(mktemp -d /tmp/chaos-pg-XXXXXX)
    trap 'kill "$server" 2>/dev/null; wait; rm -rf "$place"' EXIT
    trap 'exit 0' TERM INT
    bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
    chown postgres "$place"
    cd "$place"
    runuser -u postgres -- "$bin/initdb" -D "$place/data" -A trust -U lab >/dev/null
    echo 'host all all 0.0.0.0/0 trust' >>"$place/data/pg_hba.conf"
    runuser -u postgres -- "$bin/postgres" -D "$place/data" -k "$place" -c listen_addresses='*' \
        -c fsync=off -c autovacuum=off 2>&1 &
    server=$!
    # The run's end is the end of this program's input.
    while read -r _; do :; done
    ;;
psql) # ADDRESS
    # One session: every answer is the sum of all numbers that were ever inserted in it.
    {
        echo 'create temp table seen (n bigint);'
        n=0
        while [ ! -e "$stop" ]; do
            n=$((n + 1))
            echo "insert into seen values ($n); select count(*), sum(n), md5(repeat('x', $n)) from seen;"
            sleep 0.2
        done
    } | PGCONNECT_TIMEOUT=20 psql -qAt -F ' ' -v ON_ERROR_STOP=1 -h "$1" -U lab postgres | {
        expected=0
        while read -r count sum digest; do
            expected=$((expected + 1))
            [ "$count" = $expected ] || wrong "row $expected is $count"
            [ "$sum" = $((expected * (expected + 1) / 2)) ] || wrong "sum $sum of $expected"
            [ ${#digest} = 32 ] || wrong "digest $digest"
        done
        [ $expected -gt 3 ] || wrong "only $expected answers"
        echo "psql: $expected answers, all right"
    }
    ;;
redis) # ADDRESS
    # One client: the server counts, and knows it by the same number at the end as at the beginning.
    {
        echo 'client id'
        while [ ! -e "$stop" ]; do
            echo 'incr chaos'
            sleep 0.1
        done
        echo 'client id'
    } | redis-cli -h "$1" | {
        read -r first
        expected=0
        while read -r answer; do
            last=$answer
            expected=$((expected + 1))
            [ "$answer" = $expected ] || break
        done
        [ $expected -gt 3 ] || wrong "only $expected answers"
        [ "$last" = "$first" ] || wrong "client $first is client $last: it was connected again, or answered wrongly"
        ! read -r answer || wrong "an answer too many: $answer"
        echo "redis: $((expected - 1)) answers, all right"
    }
    ;;
curl) # URL SIZE SHA256
    downloads=0
    while [ ! -e "$stop" ]; do
        code=0
        curl -sS --fail --connect-timeout 10 --speed-time 45 --speed-limit 1 -w '%{size_download}' -o download "$1" \
            2>curl.err >curl.size || code=$?
        # Without any address nobody connects, as ever: try again. What has begun must end.
        if [ $code != 0 ] && grep -q 'Failed to connect\|Connection timed\|onnection timeout' curl.err; then
            sleep 0.2
            continue
        fi
        # Both hosts left while the handshake was under way: the other end never had this connection, and is silent
        # (28) or resets it (56) when it hears the question. Once a byte has come, it must not end so.
        if [ "$(cat curl.size)" = 0 ] && { [ $code = 28 ] || [ $code = 56 ]; }; then
            continue
        fi
        [ $code = 0 ] || wrong "download $downloads: $(cat curl.err)"
        digest=$(sha256sum <download)
        [ "${digest%% *}" = "$2" ] || wrong "download $downloads has the digest $digest"
        downloads=$((downloads + 1))
    done
    echo "curl: $downloads downloads, all right"
    ;;
esac
