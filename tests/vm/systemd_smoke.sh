#!/bin/sh
# What holds on a host where systemd is process 1. Prints "CHECK name ok" or "CHECK name FAILED: why", then SMOKE-DONE.
# In: PYTHON; the working directory is the checkout.
python=$1
export PYTHONPATH="$PWD" PATH=/usr/sbin:/usr/bin:/sbin:/bin
unit=/sys/fs/cgroup/orchestrator.slice/orchestrator-main.slice/orchestrator-main.service
orc() { "$python" -m orchestrator "$@"; }
check() {
    name=$1
    shift
    if said=$("$@" 2>&1); then echo "CHECK $name ok"; else echo "CHECK $name FAILED: $said"; fi
}
write() {
    cat >/run/one.yaml <<END
stack: one
rootfs: {base: host}
containers:
  app: {rootfs: base, command: [sleep, infinity], limits: {memory: $1, cpus: 0.5}, stop: {signal: KILL}}
  web: {rootfs: base, command: [/usr/bin/python3, -m, http.server, "80"], publish: ["8088:80"], stop: {signal: KILL}}
END
}
is() { [ "$1" = "$2" ] || { echo "$1 is not $2"; return 1; }; }
until_true() { # SECONDS COMMAND...
    end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.2
    done
}
ours() { grep -lx "orc-$1" /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3; } # keeper, supervisor or agent: its pids
app() { cat "$unit"/orchestrator-main/one/*/*/cgroup.procs | while read -r each; do
    [ "$(cat "/proc/$each/comm")" != sleep ] || echo "$each"
done; }
same() { is "$(app)" "$first"; }
all_in_the_keepers_unit() {
    for each in keeper supervisor agent; do
        grep -q 'orchestrator-main.slice/orchestrator-main-keeper' "/proc/$(ours $each)/cgroup" || { cat "/proc/$(ours $each)/cgroup"; return 1; }
    done
}
reach() { curl -fsS -m 10 --retry 20 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8088/; }
limit() { is "$(cat "$unit"/orchestrator-main/one/*/*/memory.max | grep -vx max)" "$1"; }
no_warning() { # of what is installed beside us, and of space, the smoke knows nothing
    said=$(orc doctor) || { echo "$said"; return 1; }
    ! echo "$said" | grep -E '^(warn|bad)' | grep -vE '^warn +(init|space|runc|crun|docker|containerd) '
}
reloaded() { systemctl daemon-reload && systemctl daemon-reexec && is "$(ours agent)" "$agent" && same && limit 67108864; }
another_agent() { [ -n "$(ours agent)" ] && [ "$(ours agent)" != "$agent" ]; }
killed_agent_is_back() { kill -9 "$agent" && until_true 60 another_agent && same; }
taken_limits_are_back() { systemctl stop orchestrator-main.service && until_true 60 limit 67108864 && same; }
killed_keeper_is_back() {
    kill -9 "$(ours keeper)" && orc apply -f /run/one.yaml --timeout 120s && all_in_the_keepers_unit && same
}
nobody() { [ -z "$(ours keeper)$(ours supervisor)$(ours agent)" ]; }
stopped() {
    systemctl stop 'orchestrator-main-keeper-*.service' && until_true 30 nobody && same && return
    grep -H . /proc/[0-9]*/comm | grep orc-
    tail -n 20 /run/orchestrator/keeper.log
    return 1
}
gone() { [ ! -e "$unit/orchestrator-main/one" ]; }

is "$(cat /proc/1/comm)" systemd || { echo "process 1 is not systemd"; exit 1; }
write 64MiB
check apply orc apply -f /run/one.yaml --timeout 120s
first=$(app)
agent=$(ours agent)
check containers_live_below_the_delegated_unit test -n "$first"
check keeper_supervisor_and_agent_are_in_a_unit_of_their_own all_in_the_keepers_unit
check limit_is_enforced limit 67108864
check published_port_answers reach
check doctor_sees_nothing_wrong no_warning
check reload_and_reexec_disturb_nothing reloaded
check killed_agent_is_back killed_agent_is_back
check limits_that_a_stopped_unit_took_are_back taken_limits_are_back
check killed_keeper_is_back_with_the_next_apply killed_keeper_is_back
check plan_is_empty orc plan -f /run/one.yaml --check
check stopping_the_unit_ends_all_of_ours_and_no_container stopped
write 96MiB
check apply_after_the_units_were_stopped orc apply -f /run/one.yaml --timeout 120s
check limit_changed_under_the_same_pid same
check changed_limit_is_enforced limit 100663296
check all_are_back_in_a_unit all_in_the_keepers_unit
check delete orc delete one --yes
check nothing_is_left gone
echo SMOKE-DONE
