//! The command line, with the names and texts of qemu-ga.
//!
//! As there, long options may be cut short as long as they stay unique, operands are ignored, the
//! last occurrence of an option counts, and lists add up.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::Arg;
use qga_proto::command::COMMANDS;

use crate::config::{Config, DEFAULT_FILE, LoadError, extend_list, load};
use crate::freeze::settings::DEFAULT_HOOK;

/// The qemu-ga release whose behaviour this agent keeps; clients compare it.
pub(crate) const QEMU_GA_VERSION: &str = "11.1.3";

/// What `--version` prints.
pub(crate) const VERSION: &str =
    concat!("QEMU Guest Agent 11.1.3 (qga-agent ", env!("CARGO_PKG_VERSION"), ")");

/// All options, with their letters.
const OPTIONS: [(char, &str); 16] = [
    ('c', "config"),
    ('m', "method"),
    ('p', "path"),
    ('l', "logfile"),
    ('f', "pidfile"),
    ('F', "fsfreeze-hook"),
    ('t', "statedir"),
    ('v', "verbose"),
    ('V', "version"),
    ('d', "daemonize"),
    ('b', "block-rpcs"),
    ('a', "allow-rpcs"),
    ('D', "dump-conf"),
    ('r', "retry-path"),
    ('h', "help"),
    // Windows' only; elsewhere qemu-ga swallows it with its value.
    ('s', "service"),
];

/// What the command line sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    config: Option<PathBuf>,
    method: Option<String>,
    path: Option<PathBuf>,
    log_file: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    hook: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    block: Vec<String>,
    allow: Vec<String>,
    verbose: bool,
    daemonize: bool,
    retry: bool,
    /// Print the settings instead of running.
    pub(crate) dump: bool,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Box<Options>),
    Help,
    Version,
    /// The names of all commands.
    Commands,
    /// An option that does not exist, or lacks its value; says what is wrong with it.
    Unknown(String),
}

impl Options {
    /// Reads the configuration file and puts the command line on top of it. `from_environment` is
    /// the file that `QGA_CONF` names.
    pub(crate) fn configure(self, from_environment: Option<OsString>) -> Result<Config, LoadError> {
        let mut config = Config::default();
        let default = || from_environment.map_or_else(|| DEFAULT_FILE.into(), PathBuf::from);
        let required = self.config.is_some();
        load(&mut config, &self.config.clone().unwrap_or_else(default), required)?;
        self.put_on(&mut config);
        Ok(config)
    }

    fn put_on(self, config: &mut Config) {
        config.method = self.method.or_else(|| config.method.take());
        config.path = self.path.or_else(|| config.path.take());
        config.log_file = self.log_file.or_else(|| config.log_file.take());
        config.freeze.hook = self.hook.or_else(|| config.freeze.hook.take());
        if let Some(pid_file) = self.pid_file {
            config.pid_file = pid_file;
        }
        if let Some(state_dir) = self.state_dir {
            config.state_dir = state_dir;
        }
        config.lists.block.extend(self.block);
        config.lists.allow.extend(self.allow);
        config.verbose |= self.verbose;
        config.daemonize |= self.daemonize;
        config.retry |= self.retry;
    }
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Asked {
    read(lexopt::Parser::from_args(arguments)).unwrap_or_else(|e| Asked::Unknown(e.to_string()))
}

/// The text of `-b help`.
pub(crate) fn commands() -> String {
    COMMANDS.iter().flat_map(|info| [info.name, "\n"]).collect()
}

fn read(mut parser: lexopt::Parser) -> Result<Asked, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        let name = match argument {
            Arg::Long(name) => whole(name)?,
            Arg::Short(letter) => letter_name(letter)?,
            Arg::Value(_) => continue,
        };
        match name {
            "config" => options.config = Some(parser.value()?.into()),
            "method" => options.method = Some(parser.value()?.to_string_lossy().into_owned()),
            "path" => options.path = Some(parser.value()?.into()),
            "logfile" => options.log_file = Some(parser.value()?.into()),
            "pidfile" => options.pid_file = Some(parser.value()?.into()),
            "fsfreeze-hook" => {
                // An optional value has to be attached.
                let hook = parser.optional_value().unwrap_or_else(|| DEFAULT_HOOK.into());
                options.hook = Some(hook.into());
            }
            "statedir" => options.state_dir = Some(parser.value()?.into()),
            "block-rpcs" | "allow-rpcs" => {
                let value = parser.value()?;
                if ["help", "?"].map(OsStr::new).contains(&value.as_os_str()) {
                    return Ok(Asked::Commands);
                }
                let blocks = name == "block-rpcs";
                let list = if blocks { &mut options.block } else { &mut options.allow };
                extend_list(list, &value.to_string_lossy());
            }
            "service" => drop(parser.value()?),
            "verbose" => options.verbose = true,
            "daemonize" => options.daemonize = true,
            "retry-path" => options.retry = true,
            "dump-conf" => options.dump = true,
            "version" => return Ok(Asked::Version),
            _ => return Ok(Asked::Help),
        }
    }
    Ok(Asked::Run(Box::new(options)))
}

fn letter_name(letter: char) -> Result<&'static str, lexopt::Error> {
    let found = OPTIONS.iter().find(|(known, _)| *known == letter);
    found.map(|(_, name)| *name).ok_or_else(|| Arg::Short(letter).unexpected())
}

/// The long option that `name` is, or is a unique beginning of.
fn whole(name: &str) -> Result<&'static str, lexopt::Error> {
    // There is no long form of `-s`.
    let mut names = OPTIONS.iter().map(|(_, long)| *long).filter(|long| *long != "service");
    let exact = names.clone().find(|long| *long == name);
    let mut meant = names.by_ref().filter(|long| long.starts_with(name));
    match (exact, meant.next(), meant.next()) {
        (Some(exact), _, _) => Ok(exact),
        (None, Some(only), None) => Ok(only),
        _ => Err(Arg::Long(name).unexpected()),
    }
}

/// The text of `--help`.
pub(crate) fn help(program: &str) -> String {
    format!(
        "\
Usage: {program} [-m METHOD -p PATH] [OPTION]…
{VERSION}

  -c, --config=PATH      read the settings from this file; without it from the
                         one that QGA_CONF names, or {DEFAULT_FILE}
  -m, --method=METHOD    kind of channel: virtio-serial (the default),
                         isa-serial, unix-listen or vsock-listen
  -p, --path=PATH        its device or socket; virtio-serial has
                         /dev/virtio-ports/org.qemu.guest_agent.0 by default,
                         isa-serial /dev/ttyS0; for vsock-listen CID:PORT
  -r, --retry-path       try again every 5 seconds while the channel cannot be
                         opened, or is lost
  -l, --logfile=PATH     write the log there, instead of to stderr
  -v, --verbose          log warnings and information too
  -t, --statedir=DIR     keep state there (default /var/run); not on a
                         filesystem that is to be frozen
  -F, --fsfreeze-hook[=PATH]
                         run this program with the argument freeze before a
                         freeze and with thaw after it; PATH is attached
                         (-F/my/hook), and {DEFAULT_HOOK}
                         without one
  -b, --block-rpcs=LIST  turn these commands off; names separated by commas,
                         or help for a list of all
  -a, --allow-rpcs=LIST  turn all but these commands off
  -d, --daemonize        go into the background
  -f, --pidfile=PATH     then write the process id there (default
                         /var/run/qemu-ga.pid)
  -D, --dump-conf        print the settings as a configuration file, and exit
  -V, --version          print the version, and exit
  -h, --help             print this, and exit
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn configured(line: &str) -> Config {
        let Asked::Run(options) = asked(line) else { panic!("{line}") };
        let mut config = Config::default();
        options.put_on(&mut config);
        config
    }

    #[test]
    fn short_and_long_forms_attached_or_not() {
        let short = asked("-c /c -m unix-listen -p/run/a -t /s -l/l -f /p -vdrDF/h -b a,b -a c");
        let long = asked(
            "--config=/c --method=unix-listen --path /run/a --statedir=/s --logfile /l \
             --pidfile=/p --verbose --daemonize --retry-path --dump-conf --fsfreeze-hook=/h \
             --block-rpcs=a,b --allow-rpcs c",
        );
        let wanted = Options {
            config: Some("/c".into()),
            method: Some("unix-listen".into()),
            path: Some("/run/a".into()),
            log_file: Some("/l".into()),
            pid_file: Some("/p".into()),
            hook: Some("/h".into()),
            state_dir: Some("/s".into()),
            block: vec!["b".into(), "a".into()],
            allow: vec!["c".into()],
            verbose: true,
            daemonize: true,
            retry: true,
            dump: true,
        };
        assert_eq!(short, Asked::Run(Box::new(wanted)));
        assert_eq!(short, long);
    }

    #[test]
    fn what_is_not_given_changes_nothing() {
        assert_eq!(configured(""), Config::default());
        let mut config = Config { path: Some("/x".into()), verbose: true, ..Config::default() };
        let before = config.clone();
        Options::default().put_on(&mut config);
        assert_eq!(config, before);
    }

    #[test]
    fn lists_add_up() {
        let mut config = Config::default();
        config.lists.block = vec!["x".into()];
        let Asked::Run(options) = asked("-b a,b -b c") else { panic!() };
        options.put_on(&mut config);
        assert_eq!(config.lists.block, ["x", "b", "a", "c"]);
    }

    #[test]
    fn the_hook_has_a_default_and_its_path_is_attached() {
        for line in ["-F", "-vF", "--fsfreeze-hook", "--fsf -p /x", "-F /not-its-value"] {
            assert_eq!(configured(line).freeze.hook, Some(DEFAULT_HOOK.into()), "{line}");
        }
    }

    #[test]
    fn unique_beginnings_are_enough_and_operands_are_ignored() {
        let config = configured("operand --meth=unix-listen --verb");
        assert_eq!((config.method.as_deref(), config.verbose), (Some("unix-listen"), true));
        assert_eq!(asked("--vers"), Asked::Version);
        assert!(matches!(asked("--ver"), Asked::Unknown(_)));
    }

    #[test]
    fn what_does_not_exist_or_lacks_its_value_is_unknown() {
        for line in ["-x", "--versionx", "-m", "--path", "--verbose=1", "--blacklist=x", "-s"] {
            assert!(matches!(asked(line), Asked::Unknown(_)), "{line}");
        }
        assert_eq!(asked("-h -x"), Asked::Help);
        assert_eq!(asked("-s x -V"), Asked::Version);
    }

    #[test]
    fn the_list_of_commands_is_the_tables() {
        for line in ["-b help", "-a?", "--block-rpcs=?"] {
            assert_eq!(asked(line), Asked::Commands, "{line}");
        }
        assert!(commands().starts_with("guest-sync-delimited\nguest-sync\nguest-ping\n"));
    }

    #[test]
    fn the_version_names_both_releases() {
        assert!(VERSION.contains(QEMU_GA_VERSION));
    }
}
