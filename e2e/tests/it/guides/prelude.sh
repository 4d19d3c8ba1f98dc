# What the pages take for granted: the packages are installed, and systemd runs the gateway.
set -euo pipefail
PATH=$PLACE/usr/local/sbin:$(dirname "$GATEWAY"):$PATH
export QGA_SOCKET=$PLACE/run/qga-gateway/api.sock
config=$PLACE/etc/qga-gateway/config.toml

qga-gateway() { command qga-gateway --config "$config" "$@"; }

# As the user of the unit, where that user could start the program from where it lies here.
as_qga=()
user=(setpriv --reuid "$QGA" --regid "$QGA" --clear-groups --)
if ((EUID == 0)) && "${user[@]}" test -x "$GATEWAY"; then as_qga=("${user[@]}"); fi

systemctl() {
  local end=$((SECONDS + 30)) before
  case $* in
    "restart qga-gateway")
      # Ends with this shell.
      "${as_qga[@]}" setpriv --pdeathsig KILL -- "$GATEWAY" --config "$config" >>"$PLACE/gateway.log" 2>&1 &
      gateway=$!
      until curl -sf --unix-socket "$QGA_SOCKET" http://localhost/readyz >/dev/null; do
        kill -0 "$gateway" && ((SECONDS < end)) || return 1
        sleep 0.05
      done
      ;;
    "reload qga-gateway")
      before=$(grep -c "is taken over" "$PLACE/gateway.log") || true
      kill -HUP "$gateway"
      until (($(grep -c "is taken over" "$PLACE/gateway.log") > before)); do
        ((SECONDS < end)) || return 1
        sleep 0.05
      done
      ;;
    *)
      echo "systemctl $*: not in this test" >&2
      return 1
      ;;
  esac
}
