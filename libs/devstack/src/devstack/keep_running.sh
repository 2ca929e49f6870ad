# Usage: PART_COMMAND=COMMAND sh keep_running.sh PIPE
# Runs COMMAND, and again 0.3 s after it ended. It comes by the environment, so that somebody who looks for the part by
# its command line (`pkill -9 -f 'python -m cache'`) finds the part and not this loop. A status of 2 (bad configuration,
# a taken port) would not get better: it ends this script, and with it the stack. PIPE is held open by `up`; when it
# closes, `up` is gone without having stopped its parts (kill -9, a closed terminal), and all of this session ends.
exec 3<"$1" </dev/null
trap 'exit 0' TERM INT

(
  read -r _ <&3 # nobody writes: this returns when the pipe closes
  trap '' TERM
  kill -TERM 0
  sleep 2
  kill -KILL "$PPID" 0 # honcho's relay as well: it has nobody to relay to
) >/dev/null 2>&1 &
exec 3<&-

while :; do
  sh -c "exec $PART_COMMAND" &
  wait "$!"
  status=$?
  [ "$status" -ne 2 ] || exit 2
  echo "ended with status $status; starting it again"
  sleep 0.3
done
