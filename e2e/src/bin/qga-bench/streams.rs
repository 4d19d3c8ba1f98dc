//! Files through the gateway, next to a bare client that pipelines on the same agent's socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::{Gateway, until};

use crate::contestant::{Program, Running};
use crate::file::{Files, Kind, Transfer, noise};
use crate::http_file::FileLink;
use crate::round::{Effort, Entry, interleave};
use crate::streams_load;
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};
use crate::upload::Upload;

/// What the gateway has on its way at once: a ping waits for no more.
pub(crate) const CHUNK: usize = 192 << 10;
/// In how many commands.
const AHEAD: usize = 2;
/// The column of the bare client.
pub(crate) const BARE: usize = 0;
pub(crate) const MOST_OF_IT: Target = Target::Ratio(&[(BARE, Bound::AtLeast(0.8))]);
const READY_BOUND: Duration = Duration::from_secs(30);

/// Rates with both agents, and what many or long transfers cost.
pub(crate) fn table(
    gateway: &Result<PathBuf, String>,
    ours: &Result<Program, String>,
    target: &Path,
    dir: &Path,
    effort: Effort,
) -> Table {
    let mut notes = vec![
        "bare client: on an agent's own Unix socket. It keeps to the same rule (192 KiB of files on \
         their way, in two commands; one of 96 KiB where qemu-ga is written to), and does what the \
         gateway does to the guest and no more: with qga-agent an upload is a new file that is \
         written to disk and put in the old one's place, with qemu-ga the file is cut off, written, \
         flushed and closed. Its chunks are made beforehand, and of what comes it counts the bytes: \
         what the gateway adds is HTTP and base64. Both agents run twice, for the gateway and for \
         that client, because they serve one at a time."
            .to_owned(),
    ];
    let mut rows = Vec::new();
    let stock = Program::stock(target);
    for (name, program) in [("qga-agent", ours), ("qemu-ga", &stock)] {
        let lanes = match (gateway, program) {
            (Ok(gateway), Ok(program)) => {
                Entry::from(Lanes::start(gateway, program, &dir.join(name)))
            }
            (Err(reason), _) => {
                notes.push(format!("gateway: skipped: {reason}"));
                Entry::Skipped
            }
            (_, Err(reason)) => {
                notes.push(format!("{name}: skipped: {reason}"));
                Entry::Skipped
            }
        };
        for kind in [Kind::Read, Kind::Write] {
            let what = if kind == Kind::Read { "download" } else { "upload" };
            rows.push(Row {
                name: format!("{what}, {name}"),
                unit: "MiB/s",
                cells: rates(&lanes, name, kind, effort),
                target: MOST_OF_IT,
            });
        }
        rows.extend(streams_load::rows(&lanes, name, effort));
    }
    let columns = ["bare client", "gateway"].map(str::to_owned).into();
    Table { title: "Gateway: files over HTTP".into(), columns, rows, notes }
}

/// An agent for the bare client, and one behind a gateway.
pub(crate) struct Lanes {
    pub(crate) gateway: Gateway,
    pub(crate) dir: PathBuf,
    bare: Running,
    _agent: Running,
}

impl Lanes {
    fn start(gateway: &Path, program: &Program, dir: &Path) -> Result<Self> {
        let bare = program.start(&dir.join("bare"))?;
        let agent = program.start(&dir.join("agent"))?;
        let gateway = start_gateway(gateway, dir, &agent.socket)?;
        Ok(Self { gateway, dir: dir.to_owned(), bare, _agent: agent })
    }
}

/// A gateway whose VM `vm` is at this socket, once it has found its agent.
pub(crate) fn start_gateway(program: &Path, dir: &Path, socket: &Path) -> Result<Gateway> {
    fs::create_dir_all(dir)?;
    let quiet = ["env", "RUST_LOG=off"].map(Into::into).to_vec();
    let vms = [("vm".to_owned(), socket.to_owned())];
    let gateway = Gateway::start_wrapped(program, dir, "", &vms, quiet)?;
    wait_ready(&gateway)?;
    Ok(gateway)
}

pub(crate) fn wait_ready(gateway: &Gateway) -> Result<()> {
    let rest = gateway.rest();
    until("the gateway to know the agent", READY_BOUND, || {
        let vm = rest.get("/vms/vm")?.expect(200)?;
        let known = vm["capabilities"]["commands"].is_array();
        Ok((vm["link"]["state"] == "ready" && known).then_some(()))
    })
}

/// One who moves a file, again and again.
pub(crate) enum Mover {
    Bare { transfer: Box<Transfer>, ahead: usize },
    Upload(Box<Upload>),
    Http { link: FileLink, kind: Kind, path: String, size: u64, piece: Vec<u8> },
}

impl Mover {
    /// On an agent's socket, as the gateway would. What only answers with as many bytes is given one
    /// whole chunk after the other.
    pub(crate) fn bare(
        socket: &Path,
        kind: Kind,
        file: PathBuf,
        size: usize,
        stock: bool,
        files: Files,
    ) -> Result<Self> {
        let (part, ahead) = if files == Files::None { (CHUNK, 1) } else { (CHUNK / AHEAD, AHEAD) };
        if kind == Kind::Write && files != Files::None {
            let upload = Upload::open(socket, file, part, size, stock, files)?;
            return Ok(Self::Upload(Box::new(upload)));
        }
        let transfer = Box::new(Transfer::open(socket, kind, file, part, size, files)?);
        Ok(Self::Bare { transfer, ahead })
    }

    /// Over HTTP. What is downloaded is written by `prepare`.
    pub(crate) fn http(socket: &Path, kind: Kind, path: String, size: usize) -> Result<Self> {
        let link = FileLink::connect(socket)?;
        Ok(Self::Http { link, kind, path, size: size as u64, piece: noise(CHUNK) })
    }

    /// Moves the file once.
    pub(crate) fn pass(&mut self) -> Result<Duration> {
        match self {
            Self::Bare { transfer, ahead } => transfer.pass_ahead(*ahead),
            Self::Upload(upload) => upload.pass(),
            Self::Http { link, kind, path, size, piece } => {
                let begun = Instant::now();
                match kind {
                    Kind::Read => {
                        let came = link.download(path, |_| true)?;
                        ensure!(came == *size, "{came} bytes came of {size}");
                    }
                    Kind::Write => link.upload(path, *size, piece)?,
                }
                Ok(begun.elapsed())
            }
        }
    }

    /// MiB per second over at least a turn.
    pub(crate) fn rate(&mut self, size: usize, turn: Duration) -> Result<f64> {
        let (mut spent, mut bytes) = (Duration::ZERO, 0);
        while spent < turn {
            spent += self.pass()?;
            bytes += size;
        }
        #[expect(clippy::cast_precision_loss, reason = "the size of some files")]
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        Ok(mebibytes / spent.as_secs_f64())
    }
}

fn rates(lanes: &Entry<Lanes>, name: &str, kind: Kind, effort: Effort) -> Vec<Cell> {
    let size = effort.stream * CHUNK;
    let bare = lanes.prepare(|lanes| {
        let file = lanes.dir.join(format!("bare-{kind:?}"));
        Mover::bare(&lanes.bare.socket, kind, file, size, name == "qemu-ga", Files::Here)
    });
    let through = lanes.prepare(|lanes| {
        let file = lanes.dir.join(format!("http-{kind:?}"));
        checked(&lanes.gateway.socket(), kind, &file, size)
    });
    let [cells] = interleave(effort.rounds, vec![bare, through], |mover| {
        Ok([mover.rate(size, effort.turn)?])
    });
    cells
}

/// Moves the file once and compares every byte.
fn checked(socket: &Path, kind: Kind, file: &Path, size: usize) -> Result<Mover> {
    let content = noise(CHUNK).repeat(size / CHUNK);
    let path = file.to_str().context("a path that is no UTF-8")?;
    let mut link = FileLink::connect(socket)?;
    if kind == Kind::Read {
        fs::write(file, &content)?;
        let mut came = Vec::with_capacity(size);
        link.download(path, |bytes| {
            came.extend_from_slice(bytes);
            true
        })?;
        ensure!(came == content, "other bytes came than the file has");
    } else {
        link.upload(path, size as u64, &noise(CHUNK))?;
        ensure!(fs::read(file)? == content, "other bytes in the file than were sent");
    }
    Mover::http(socket, kind, path.to_owned(), size)
}
