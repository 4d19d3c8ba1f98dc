# bash completion for qga-agent, in the guest.
_qga_agent() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} lists
  case $previous in
    -m | --method)
      mapfile -t COMPREPLY < <(compgen -W 'virtio-serial isa-serial unix-listen vsock-listen' -- "$current")
      return
      ;;
    -c | --config | -p | --path | -l | --logfile | -f | --pidfile)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
      ;;
    -t | --statedir)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    -a | --allow-rpcs | -b | --block-rpcs)
      # Names in a list: those before the last comma stay.
      [[ $current == *,* ]] && lists=${current%,*},
      mapfile -t COMPREPLY < <(compgen -P "${lists-}" -W "help $(qga-agent -b help 2>/dev/null)" -- "${current##*,}")
      compopt -o nospace
      return
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W '--config --method --path --retry-path --logfile --verbose --statedir
    --fsfreeze-hook --block-rpcs --allow-rpcs --daemonize --pidfile --dump-conf --version --help' -- "$current")
}
complete -F _qga_agent qga-agent
