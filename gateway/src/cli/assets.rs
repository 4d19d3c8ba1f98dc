//! Man pages and completions, made from the command line's own description; for packages.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_complete::env::Shells;
use clap_mangen::Man;

use super::{Arguments, COMPLETE};

const PROGRAM: &str = "qga-gateway";

/// What clap does not know of the daemon.
const MORE: &str = r#".SH SIGNALS
.TP
SIGHUP
read the configuration again (\fBsystemctl reload\fR); a file with an error changes nothing
.TP
SIGTERM, SIGINT
stop: thaw what no \fBqga-agent\fR(8) guards, within limits.shutdown_grace_seconds
.TP
SIGUSR2
stop, and leave all freezes to the gateway that is started next (\fBsystemctl restart\fR)
.SH "EXIT STATUS"
0 if all is well, and with a sentence on standard error if not: 1 the gateway or the guest said no (of \fBdoctor\fR:
something is to be done), 2 the command line makes no sense, 3 a freeze did not hold, 4 no gateway answers, or it stopped
doing so. \fBexec\fR, \fBshell\fR and \fBfreeze\fR with a command exit with the program's code, 128 and the number of
the signal that ended it; \fBexec\fR and \fBshell\fR with 255 for whatever is not the program's.
.SH ENVIRONMENT
.TP
QGA_GATEWAY_URL
where the gateway is, as \fB--url\fR
.TP
QGA_GATEWAY_TOKEN_FILE, QGA_GATEWAY_TOKEN
the file with the token, or the token
.TP
QGA_GATEWAY_CACERT, QGA_GATEWAY_CERT, QGA_GATEWAY_KEY
as \fB--cacert\fR, \fB--cert\fR and \fB--key\fR
.TP
QGA_LEASE
the lease, of a command that \fBfreeze\fR runs
.SH FILES
.TP
/etc/qga\-gateway/config.toml
the configuration, with every key explained
.TP
/run/qga\-gateway/api.sock
the API: members of the group qga may connect
.TP
/run/qga\-gateway/token
the token for TCP
.TP
/var/lib/qga\-gateway
freeze leases
.TP
/run/qga
where QEMUs make the sockets of their agents
.SH "SEE ALSO"
\fBqga\-gateway\-doctor\fR(8), \fBqga\-agent\fR(8), \fBsystemd.exec\fR(5),
/usr/share/doc/qga\-gateway/install.md, operations.md
"#;

/// Writes a page for the program and one for each command that is shown.
pub(super) fn man(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut command = Arguments::command();
    command.build();
    let mut pages = vec![("qga-gateway".to_owned(), command)];
    while let Some((name, command)) = pages.pop() {
        for below in command.get_subcommands() {
            if !below.is_hide_set() && below.get_name() != "help" {
                pages.push((format!("{name}-{}", below.get_name()), below.clone()));
            }
        }
        let main = name == "qga-gateway";
        let file = directory.join(format!("{name}.8"));
        let page = Man::new(command.display_name(&name).disable_help_subcommand(true))
            .title(&name)
            .section("8")
            .source(concat!("qga ", env!("CARGO_PKG_VERSION")))
            .manual("qga");
        let mut text = Vec::new();
        page.render(&mut text)?;
        if main {
            text.extend_from_slice(MORE.as_bytes());
        }
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// What a shell reads to complete the command line: it asks this program, which knows the VMs.
pub(super) fn completions(shell: Shell) -> anyhow::Result<String> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).with_context(|| format!("no completions for {name}"))?;
    let mut text = Vec::new();
    shell.write_registration(COMPLETE, PROGRAM, PROGRAM, PROGRAM, &mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if name == "zsh" {
        // Loaded by its first use, it has to answer that one too.
        text += "\nif [ \"$funcstack[1]\" = \"_qga-gateway\" ]; then\n    \
                 _clap_dynamic_completer_qga_gateway \"$@\"\nfi\n";
    }
    Ok(text)
}
