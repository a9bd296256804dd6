
# The model server: started here, not as a step, so that a notice of preemption does not end it while the run drains.
server_log=qaflow-server-$job.log
server_up=$(mktemp -u "${TMPDIR:-/tmp}/qaflow-server.XXXXXX")
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# Jobs that share a node must not share a port.
QAFLOW_SERVER_PORT=$((20000 + SLURM_JOB_ID % 20000))
while port_taken "$QAFLOW_SERVER_PORT"; do QAFLOW_SERVER_PORT=$((QAFLOW_SERVER_PORT + 1)); done
export QAFLOW_SERVER_PORT @@URL_VARIABLE@@=http://127.0.0.1:$QAFLOW_SERVER_PORT/v1

healthy() (
  exec 3<>"/dev/tcp/127.0.0.1/$QAFLOW_SERVER_PORT" || exit 1
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' @@HEALTH@@ >&3
  line=
  IFS= read -r -t 10 line <&3
  [[ $line == HTTP/*' 200'* ]]
) 2>/dev/null

end_server() {
  local tries
  kill -TERM -- "-$server" 2>/dev/null || return 0
  for ((tries = 0; tries < 50; tries++)); do
    if ! kill -0 -- "-$server" 2>/dev/null; then return; fi
    sleep 0.2
  done
  kill -KILL -- "-$server" 2>/dev/null || true
}

keep_server() {
  local left=@@SERVER_RESTARTS@@ began lost up
  trap 'end_server; exit 0' TERM
  while :; do
    # shellcheck disable=SC2016 # the command is expanded by its own shell
    setsid bash -c @@SERVER_COMMAND@@ >>"$server_log" 2>&1 &
    server=$!
    began=$SECONDS lost=$SECONDS up=''
    while kill -0 "$server" 2>/dev/null; do
      if healthy; then
        lost=$SECONDS
        if [ -z "$up" ]; then
          say "the model server is up after $((SECONDS - began)) s, port $QAFLOW_SERVER_PORT, log $server_log"
          up=1
          : >"$server_up"
        fi
      elif [ -z "$up" ] && ((SECONDS - began > @@START_TIMEOUT@@)); then
        say "the model server is not up after @@START_TIMEOUT@@ s, see $server_log"
        break
      elif [ -n "$up" ] && ((SECONDS - lost > @@PATIENCE@@)); then
        say "the model server has answered nothing for @@PATIENCE@@ s"
        break
      fi
      pause 1
    done
    end_server
    if ((left-- <= 0)); then
      say "the model server is given up, see $server_log"
      # The run drains; on another node it may go better.
      if [ -e "$server_up" ]; then kill -TERM $$; fi
      exit 1
    fi
    say "the model server ended, see $server_log; it is started again"
    pause 2
  done
}

keep_server &
keeper=$!
until [ -e "$server_up" ] || [ -n "$stopping" ]; do
  if ! kill -0 "$keeper" 2>/dev/null; then
    say "no model server, no run: see $server_log"
    exit 1
  fi
  pause 1
done
