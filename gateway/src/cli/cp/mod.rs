//! `qga-gateway cp`: a file into a guest, or out of one.

mod bar;
mod down;
mod end;
mod up;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use qga_gateway::client::{Gateway, encoded};

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
    /// Directories are not copied; the error says how to
    #[arg(short = 'r', long, hide = true)]
    recursive: bool,
    #[command(flatten)]
    reach: Reach,
}

/// A file in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remote {
    vm: String,
    path: String,
}

impl Remote {
    fn content(&self) -> String {
        format!("/vms/{}/files/content?path={}", encoded(&self.vm), encoded(&self.path))
    }

    fn shown(&self) -> String {
        format!("/vms/{}/files?path={}", encoded(&self.vm), encoded(&self.path))
    }

    /// With a name behind it, where it is a directory.
    fn join(&self, name: &str) -> Self {
        let path = format!("{}/{name}", self.path.trim_end_matches('/'));
        Self { vm: self.vm.clone(), path }
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.vm, self.path)
    }
}

pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    super::block_on(async { copy(options, &gateway).await.map(|()| ExitCode::SUCCESS) })
}

async fn copy(options: &Options, gateway: &Gateway) -> anyhow::Result<()> {
    let (from, to) = (End::of(&options.from)?, End::of(&options.to)?);
    if options.recursive {
        return Err(whole_directories(&from, &to).into());
    }
    match (from, to) {
        (End::Remote(from), End::Local(to)) => down::file(options, gateway, &from, &to).await,
        (End::Remote(from), End::Stream) => down::stream(options, gateway, &from).await,
        (End::Local(from), End::Remote(to)) if from.is_dir() => {
            Err(whole_directories(&End::Local(from), &End::Remote(to)).into())
        }
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
    }
}

/// How to copy a directory, which this does not.
fn whole_directories(from: &End, to: &End) -> Usage {
    let recipe = match (from, to) {
        (End::Remote(from), _) => format!(
            "qga-gateway exec {} -- tar -C {} -cf - . | tar -C DIRECTORY -xf -",
            from.vm, from.path
        ),
        (_, End::Remote(to)) => format!(
            "tar -C DIRECTORY -cf - . | qga-gateway exec -i {} -- tar -C {} -xf -",
            to.vm, to.path
        ),
        _ => "cp -r".into(),
    };
    Usage(format!("directories are not copied; a tar through a pipe does it: {recipe}"))
}
