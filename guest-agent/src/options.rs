//! The command line, with the names, defaults and texts of qemu-ga.
//!
//! As there, long options may be cut short as long as they stay unique, operands are ignored, and
//! the last occurrence of an option counts.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use crate::freeze::settings::DEFAULT_HOOK;

/// The qemu-ga release whose behaviour this agent keeps; clients compare it.
pub(crate) const QEMU_GA_VERSION: &str = "11.1.3";

/// What `--version` prints.
pub(crate) const VERSION: &str =
    concat!("QEMU Guest Agent 11.1.3 (qga-agent ", env!("CARGO_PKG_VERSION"), ")");

const LONG: [&str; 10] = [
    "method",
    "path",
    "statedir",
    "logfile",
    "pidfile",
    "verbose",
    "version",
    "help",
    "daemonize",
    "fsfreeze-hook",
];

/// How the agent was asked to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) method: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) state_dir: PathBuf,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) pid_file: PathBuf,
    /// `-F`.
    pub(crate) fsfreeze_hook: Option<PathBuf>,
    pub(crate) verbose: bool,
    pub(crate) daemonize: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: "virtio-serial".into(),
            path: None,
            state_dir: "/var/run".into(),
            log_file: None,
            pid_file: "/var/run/qemu-ga.pid".into(),
            fsfreeze_hook: None,
            verbose: false,
            daemonize: false,
        }
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Options),
    Help,
    Version,
    /// An option that does not exist, or lacks its value; says what is wrong with it.
    Unknown(String),
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Asked {
    read(lexopt::Parser::from_args(arguments)).unwrap_or_else(|e| Asked::Unknown(e.to_string()))
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
            "method" => options.method = parser.value()?.to_string_lossy().into_owned(),
            "path" => options.path = Some(parser.value()?.into()),
            "statedir" => options.state_dir = parser.value()?.into(),
            "logfile" => options.log_file = Some(parser.value()?.into()),
            "pidfile" => options.pid_file = parser.value()?.into(),
            "fsfreeze-hook" => {
                // An optional value has to be attached.
                let hook = parser.optional_value().unwrap_or_else(|| DEFAULT_HOOK.into());
                options.fsfreeze_hook = Some(hook.into());
            }
            "verbose" => options.verbose = true,
            "daemonize" => options.daemonize = true,
            "version" => return Ok(Asked::Version),
            _ => return Ok(Asked::Help),
        }
    }
    Ok(Asked::Run(options))
}

fn letter_name(letter: char) -> Result<&'static str, lexopt::Error> {
    Ok(match letter {
        'm' => "method",
        'p' => "path",
        't' => "statedir",
        'l' => "logfile",
        'f' => "pidfile",
        'F' => "fsfreeze-hook",
        'v' => "verbose",
        'V' => "version",
        'h' => "help",
        'd' => "daemonize",
        _ => return Err(Arg::Short(letter).unexpected()),
    })
}

/// The long option that `name` is, or is a unique beginning of.
fn whole(name: &str) -> Result<&'static str, lexopt::Error> {
    let mut meant = LONG.iter().filter(|long| long.starts_with(name));
    match (LONG.iter().find(|long| **long == name), meant.next(), meant.next()) {
        (Some(exact), _, _) => Ok(exact),
        (None, Some(only), None) => Ok(only),
        _ => Err(Arg::Long(name).unexpected()),
    }
}

/// The text of `--help`.
pub(crate) fn help(program: &str) -> String {
    format!(
        "\
Usage: {program} [-m <method> -p <path>] [<options>]
{VERSION}

  -m, --method      transport method: one of unix-listen, virtio-serial
                    (virtio-serial is the default)
  -p, --path        device/socket path (the default for virtio-serial is:
                    /dev/virtio-ports/org.qemu.guest_agent.0)
  -l, --logfile     set logfile path, logs to stderr by default
  -f, --pidfile     specify pidfile (default is /var/run/qemu-ga.pid)
  -F, --fsfreeze-hook
                    run this program as `PROGRAM freeze` before a freeze and
                    `PROGRAM thaw` after it; without an (attached) path
                    {DEFAULT_HOOK}
  -t, --statedir    specify dir to store state information (absolute paths
                    only, default is /var/run); it must not lie on a
                    filesystem that is to be frozen
  -v, --verbose     log extra debugging information
  -V, --version     print version information and exit
  -d, --daemonize   become a daemon
  -h, --help        display this help and exit
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn defaults_are_those_of_qemu_ga() {
        assert_eq!(asked(""), Asked::Run(Options::default()));
    }

    #[test]
    fn short_and_long_forms_attached_or_not() {
        let wanted = Options {
            method: "unix-listen".into(),
            path: Some("/run/a".into()),
            state_dir: "/s".into(),
            log_file: Some("/l".into()),
            pid_file: "/p".into(),
            fsfreeze_hook: Some("/h".into()),
            verbose: true,
            daemonize: true,
        };
        let short = asked("-m unix-listen -p/run/a -t /s -l/l -f /p -vd -F/h");
        let long = asked(
            "--method=unix-listen --path /run/a --statedir=/s --logfile /l --pidfile=/p --verbose \
             --daemonize --fsfreeze-hook=/h",
        );
        assert_eq!(short, Asked::Run(wanted));
        assert_eq!(short, long);
    }

    #[test]
    fn the_hook_has_a_default_and_its_path_is_attached() {
        for line in ["-F", "-vF", "--fsfreeze-hook", "--fsf -p /x", "-F /not-its-value"] {
            let Asked::Run(options) = asked(line) else { panic!("{line}") };
            assert_eq!(options.fsfreeze_hook, Some(DEFAULT_HOOK.into()), "{line}");
        }
    }

    #[test]
    fn unique_beginnings_are_enough_and_operands_are_ignored() {
        let Asked::Run(options) = asked("operand --meth=unix-listen --verb") else { panic!() };
        assert_eq!((options.method.as_str(), options.verbose), ("unix-listen", true));
        assert_eq!(asked("--vers"), Asked::Version);
        assert!(matches!(asked("--ver"), Asked::Unknown(_)));
    }

    #[test]
    fn what_does_not_exist_or_lacks_its_value_is_unknown() {
        for line in ["-x", "--versionx", "-m", "--path", "--verbose=1"] {
            assert!(matches!(asked(line), Asked::Unknown(_)), "{line}");
        }
        assert_eq!(asked("-h -x"), Asked::Help);
    }

    #[test]
    fn the_version_names_both_releases() {
        assert!(VERSION.contains(QEMU_GA_VERSION));
    }
}
