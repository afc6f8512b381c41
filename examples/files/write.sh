# Writes a line into the diary every few seconds; the place to think is in memory.
while true; do
    echo "$AUTHOR, at $(date +%H:%M:%S)" >/tmp/thought
    cat /tmp/thought >>today
    echo "wrote $(wc -l <today) lines"
    sleep "$PAUSE"
done
