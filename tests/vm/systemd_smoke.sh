#!/bin/sh
# What holds on a host where systemd is process 1. Prints "CHECK name ok" or "CHECK name FAILED: why", then SMOKE-DONE.
# In: PYTHON; the working directory is the checkout.
python=$1
export PYTHONPATH="$PWD" PATH=/usr/sbin:/usr/bin:/sbin:/bin
unit=/sys/fs/cgroup/orchestrator.slice/orchestrator-main.slice/orchestrator-main.service
orc() { "$python" -m orchestrator "$@"; }
pid() { orc ps --output json | "$python" -c 'import json, sys
for each in json.load(sys.stdin)["stacks"][0]["containers"]:
    if each["ref"] == "container/app-1/app": print(each["pid"])'; }
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
find_pid() { grep -rqx "$1" --include=cgroup.procs "$unit"; }
out_of_the_session() {
    keeper=$(cat /run/orchestrator/keeper.lock)
    grep -q 'orchestrator-main.slice/orchestrator-main-keeper' "/proc/$keeper/cgroup" || cat "/proc/$keeper/cgroup"
}
reach() { curl -fsS -m 10 --retry 20 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8088/; }
limit() { is "$(cat "$unit"/orchestrator-main/one/*/*/memory.max | grep -vx max)" "$1"; }
gone() { [ ! -e "$unit/orchestrator-main/one" ]; }

is "$(cat /proc/1/comm)" systemd || { echo "process 1 is not systemd"; exit 1; }
write 64MiB
check apply orc apply -f /run/one.yaml --timeout 120s
first=$(pid)
check containers_live_below_the_delegated_unit find_pid "$first"
check the_keeper_is_a_unit_of_its_own out_of_the_session
check limit_is_enforced limit 67108864
check published_port_answers reach
check plan_is_empty orc plan -f /run/one.yaml --check
systemctl daemon-reload
systemctl stop 'orchestrator-main-keeper-*.service'
systemctl stop orchestrator-main.service
check a_stopped_unit_ends_no_container is "$(pid)" "$first"
write 96MiB
check apply_after_the_units_were_stopped orc apply -f /run/one.yaml --timeout 120s
check limit_changed_under_the_same_pid is "$(pid)" "$first"
check changed_limit_is_enforced limit 100663296
check delete orc delete one --yes
check nothing_is_left gone
echo SMOKE-DONE
