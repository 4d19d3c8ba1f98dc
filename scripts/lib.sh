# shellcheck shell=bash
# What the scripts that build have in common; sourced.

# rustup adds itself to the PATH of the next login only.
command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v cargo >/dev/null || {
  printf 'There is no cargo.\nWhat to do: install Rust from https://rustup.rs, then run this again\n' >&2
  exit 1
}

step() { printf '\n==> %s\n' "$*"; }
