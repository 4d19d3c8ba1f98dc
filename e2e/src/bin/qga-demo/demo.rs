//! The steps: boot, freeze, look, thaw.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::{Assets, Disk, Gateway, GuestAgent, Rest, Vm, fingerprint, needs_recovery, until};
use serde_json::json;

use crate::paste::{self, Line};
use crate::show::{plain, say, step};
use crate::writers::{self, Writers};

/// For anything that happens in a guest under emulation on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// How long the demo looks at the writers.
const WATCH: Duration = Duration::from_secs(1);
/// How long the gateway may take to thaw and end.
const GRACE: Duration = Duration::from_secs(10);

/// Boots the VM and waits until its disks are being written to.
///
/// # Errors
/// It does not come up.
pub(crate) fn boot(assets: &Assets, dir: &Path, stock: bool) -> Result<Vm> {
    step("Booting a virtual machine");
    let agent = if stock {
        GuestAgent::Stock
    } else {
        let built = assets.programs.agent.clone();
        GuestAgent::Ours(built.context("no qga-agent has been built")?)
    };
    say(match assets.accel() {
        "kvm" => "With KVM.",
        _ => "By software emulation, because KVM does not work here. A few seconds.",
    });
    let started = Instant::now();
    let mut vm = Vm::builder(dir).agent(agent).boot(assets)?;
    for disk in Disk::DATA {
        vm.control().wait_writing(disk, SOON)?;
    }
    say(format_args!(
        "Up after {:.1} s: Linux {}, with {} as its guest agent.",
        started.elapsed().as_secs_f32(),
        vm.control().output("uname -r")?,
        if stock { "Debian's qemu-ga" } else { "qga-agent" },
    ));
    say("Besides its root disk it has an ext4, an xfs and a btrfs disk, and a program that");
    say("keeps appending records to each of them.");
    Ok(vm)
}

/// A VM behind a gateway. The gateway ends before the VM.
#[derive(Debug)]
pub(crate) struct Demo {
    gateway: Gateway,
    vm: Vm,
    tcp: SocketAddr,
}

impl Demo {
    /// Starts the gateway.
    ///
    /// # Errors
    /// It does not come up, or does not find the VM's agent.
    pub(crate) fn start(assets: &Assets, dir: &Path, vm: Vm) -> Result<Self> {
        step("Starting the gateway");
        let program = assets.programs.gateway.as_deref();
        let program = program.context("no qga-gateway has been built")?;
        let tcp = free_port()?;
        let gateway = Gateway::start_on(program, dir, &[("demo", vm.qga_socket())], Some(tcp))?;
        let rest = gateway.rest();
        let mut last = String::new();
        until("the guest agent's answer", SOON, || {
            let vm = rest.get("/vms/demo")?.expect(200)?;
            last = vm["link"].to_string();
            Ok((vm["link"]["state"] == "ready").then_some(()))
        })
        .with_context(|| format!("the link was last {last}; log:\n{}", gateway.log()))?;
        say("It has found the VM's agent: the link to VM \"demo\" is ready.");
        Ok(Self { gateway, vm, tcp })
    }

    /// Freezes over HTTP, shows that the guest is frozen, and thaws.
    ///
    /// # Errors
    /// Anything is not as it should be.
    pub(crate) fn show(&mut self) -> Result<()> {
        let rest = self.gateway.rest();
        step("Before the freeze");
        self.show_writing()?;

        step("Freezing: POST /vms/demo/fsfreeze {\"ttl_seconds\": 60}");
        let lease = rest.post("/vms/demo/fsfreeze", &json!({ "ttl_seconds": 60 }))?.expect(201)?;
        let count =
            lease["filesystems"].as_u64().with_context(|| format!("no count in {lease}"))?;
        let mounted = self.vm.control().output("grep -c ^/dev/ /proc/mounts")?;
        ensure!(mounted == count.to_string(), "{mounted} filesystems, but {count} frozen");
        say(format_args!("201 Created: the guest's kernel has frozen {count} filesystems."));
        say(format_args!(
            "Lease {}; were it forgotten, the gateway would thaw at {}.",
            lease["id"].as_str().unwrap_or_default(),
            lease["expires_at"].as_str().unwrap_or_default()
        ));

        step("Is the guest frozen?");
        self.show_frozen(&rest)?;

        step("Thawing: DELETE /vms/demo/fsfreeze");
        let lease = rest.delete("/vms/demo/fsfreeze")?.expect(200)?;
        let verdict = lease["verdict"].as_str().unwrap_or_default();
        ensure!(
            ["held", "counts_agree"].contains(&verdict),
            "the freeze did not hold all the time: {lease}"
        );
        say(format_args!("200 OK: thawed. Did the freeze hold all the time? Verdict: {verdict}."));
        self.show_writing()
    }

    /// Prints the lines to paste.
    pub(crate) fn show_lines(&self) {
        let show = |lines: &[Line]| {
            for line in lines {
                plain(format_args!("  # {}\n  {}", line.what, line.command));
            }
        };
        let (unix, tcp) = self.lines();
        step("Your turn, in another terminal. The demo runs until you press Ctrl-C here.");
        plain(format_args!("\nAPI page, to read and try: http://{}/docs", self.tcp));
        plain(format_args!(
            "  its \"Authorize\" button takes the token in {}",
            self.gateway.token_file().display()
        ));
        plain("\nOver the Unix socket:");
        show(&unix);
        plain("\nOver TCP, with the token:");
        show(&tcp);
        plain("");
    }

    /// Runs the printed lines, one after the other.
    ///
    /// # Errors
    /// One does not do what it says.
    pub(crate) fn check_lines(&self) -> Result<()> {
        step("Running these lines");
        let (unix, tcp) = self.lines();
        for line in unix.into_iter().chain(tcp).chain(paste::besides(self.tcp)) {
            line.run()?;
            say(format_args!("works: {}", line.what));
        }
        Ok(())
    }

    /// How far the guest's writers are.
    ///
    /// # Errors
    /// The guest does not answer, or a writer has given up.
    pub(crate) fn writers(&mut self) -> Result<Writers> {
        writers::look(self.vm.control())
    }

    /// Which of the two has ended by itself, in words.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub(crate) fn ended(&mut self) -> Result<Option<String>> {
        if let Some(status) = self.gateway.ended()? {
            return Ok(Some(format!(
                "The gateway has ended ({status}). Its log:\n{}",
                self.gateway.log()
            )));
        }
        let gone = self.vm.ended()?.is_some();
        Ok(gone.then(|| "The VM has powered off; GET /vms/demo shows the gateway's view.".into()))
    }

    /// Ends both, in the order in which a host would.
    pub(crate) fn end(mut self) {
        self.gateway.stop(GRACE);
        self.vm.kill();
    }

    fn lines(&self) -> (Vec<Line>, Vec<Line>) {
        let unix = paste::over_unix(&self.gateway.socket());
        (unix, paste::over_tcp(self.tcp, &self.gateway.token_file()))
    }

    fn show_writing(&mut self) -> Result<()> {
        let before = self.writers()?;
        let started = Instant::now();
        let after = until("records on every disk", SOON, || {
            let after = self.writers()?;
            let done = started.elapsed() >= WATCH && writers::all_went_on(&before, &after);
            Ok(done.then_some(after))
        })?;
        let seconds = started.elapsed().as_secs_f32();
        say(format_args!(
            "Records written in {seconds:.1} s:  {}",
            writers::gained(&before, &after)
        ));
        Ok(())
    }

    fn show_frozen(&mut self, rest: &Rest) -> Result<()> {
        // The last record before the freeze may still be on its way to be blocked.
        let mut last = self.writers()?;
        let before = until("blocked writers", SOON, || {
            let now = self.writers()?;
            let blocked = writers::all_blocked(&last, &now);
            last = now;
            Ok(blocked.then(|| last.clone()))
        })?;
        let images = self.fingerprints()?;
        let started = Instant::now();
        until("time to pass", SOON, || Ok((started.elapsed() >= WATCH).then_some(())))?;
        let after = self.writers()?;
        let seconds = started.elapsed().as_secs_f32();
        ensure!(writers::all_blocked(&before, &after), "a writer went on while frozen");
        say(format_args!(
            "Records written in {seconds:.1} s:  {}   (each waits in its write)",
            writers::gained(&before, &after)
        ));
        ensure!(self.fingerprints()? == images, "an image changed while frozen");
        say("Disk images on the host:   not one byte has changed");
        ensure!(!needs_recovery(&self.vm.image(Disk::Ext4))?, "the ext4 image needs its journal");
        say("The ext4 image, as it is:  consistent, no journal to replay");
        let status = rest.get("/vms/demo/fsfreeze")?.expect(200)?;
        ensure!(status["status"] == "frozen", "the agent says {status}");
        say("And its agent says:        frozen");
        Ok(())
    }

    fn fingerprints(&self) -> Result<Vec<u64>> {
        Disk::DATA.into_iter().map(|disk| fingerprint(&self.vm.image(disk))).collect()
    }
}

/// A loopback port that is free right now.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a port")?;
    Ok(listener.local_addr()?)
}
