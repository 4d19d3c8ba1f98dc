//! `qga-gateway cp`: files and directories into a guest, or out of one.

mod bar;
mod down;
mod end;
mod tree;
mod up;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use qga_gateway::client::{Gateway, encoded, printable};

use self::end::End;
use super::complete;
use super::exit::Usage;
use super::reach::Reach;

#[derive(Args)]
pub(super) struct Options {
    /// What: `VM:/PATH`, a file here, or - for standard input
    #[arg(value_name = "SOURCE", add = complete::places())]
    from: String,
    /// Where to: `VM:/PATH`, a file or directory here, or - for standard output
    #[arg(value_name = "DESTINATION", add = complete::places())]
    to: String,
    /// Go on with a copy that was broken off
    #[arg(short = 'c', long = "continue")]
    resume: bool,
    /// Give the copy the permission bits of the original
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Up: always send a digest, which is compared before the file is put in its place (without this,
    /// of files up to 64 MiB). Down: fail if the file changed while it was read
    #[arg(long)]
    verify: bool,
    /// No progress bar, and nothing but errors
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Copy a directory with all that is in it; links are not followed. Needs qga-agent in the guest
    #[arg(short = 'r', visible_short_alias = 'R', long, conflicts_with = "resume")]
    recursive: bool,
    /// With --recursive: give up if there are more files and directories than this
    #[arg(long, value_name = "N", default_value_t = 1_000_000, requires = "recursive")]
    max_entries: u64,
    #[command(flatten)]
    reach: Reach,
}

/// A file in a guest. Its path need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remote {
    vm: String,
    path: Vec<u8>,
}

impl Remote {
    fn content(&self) -> String {
        format!("/vms/{}/files/content?path={}", encoded(&self.vm), encoded(&self.path))
    }

    fn shown(&self) -> String {
        format!("/vms/{}/files?path={}", encoded(&self.vm), encoded(&self.path))
    }

    /// With a name behind it, where it is a directory.
    fn join(&self, name: &[u8]) -> Self {
        let mut path = self.path.clone();
        while path.last() == Some(&b'/') {
            path.pop();
        }
        path.push(b'/');
        path.extend_from_slice(name);
        Self { vm: self.vm.clone(), path }
    }

    fn is_marked_directory(&self) -> bool {
        self.path.ends_with(b"/")
    }
}

/// Fit for a terminal: a guest may have thought of the name.
impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.vm, printable(&String::from_utf8_lossy(&self.path)))
    }
}

pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    super::block_on(copy(options, &gateway))
}

async fn copy(options: &Options, gateway: &Gateway) -> anyhow::Result<ExitCode> {
    let done = match (End::of(&options.from)?, End::of(&options.to)?) {
        (End::Remote(from), End::Local(to)) if options.recursive => {
            return tree::down(options, gateway, &from, &to).await;
        }
        (End::Local(from), End::Remote(to)) if from.is_dir() => {
            if options.recursive {
                return tree::up(options, gateway, &from, &to).await;
            }
            return Err(Usage(format!("{} is a directory: -r copies it", from.display())).into());
        }
        (End::Remote(_), End::Stream) | (End::Stream, End::Remote(_)) if options.recursive => {
            return Err(Usage("a directory cannot be copied from or to -; see tar(1)".into()).into());
        }
        (End::Remote(from), End::Local(to)) => down::file(options, gateway, &from, &to).await,
        (End::Remote(from), End::Stream) => down::stream(options, gateway, &from).await,
        (End::Local(from), End::Remote(to)) => up::file(options, gateway, &from, &to).await,
        (End::Stream, End::Remote(to)) => up::stream(options, gateway, &to).await,
        (End::Remote(from), End::Remote(to)) => Err(Usage(format!(
            "a copy from guest to guest goes through here: qga-gateway cp {from} - | qga-gateway cp - {to}"
        ))
        .into()),
        _ => Err(Usage(
            "one of the two must be in a guest: VM:/PATH, the path beginning with a slash".into(),
        )
        .into()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
