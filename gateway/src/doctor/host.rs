//! What is looked at on the host: files, directories, and who is granted what.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::account::{Account, is_group, is_user, permissions};
use super::report::{Finding, VmFinding};
use crate::config::{Config, SecretFile};

/// The config file, the state directory, the socket's directory, the token, and the grants.
pub(super) fn examine(config: &Config, file: &Path, account: &Account) -> Vec<Finding> {
    let mut found = vec![Finding::ok("service", format!("runs as {account}"))];
    found.push(config_file(file));
    found.push(state_dir(&config.state_dir, account));
    found.extend(socket(&config.listen.unix));
    if config.listen.tcp.is_some() {
        found.push(token(&config.listen.token_file, account));
    }
    found.extend(expired(config));
    found.extend(nobody(config));
    found
}

fn shown(path: &Path) -> String {
    format!("{} ({})", path.display(), permissions(path).unwrap_or_else(|| "missing".into()))
}

fn config_file(file: &Path) -> Finding {
    match fs::metadata(file) {
        Ok(found) if found.mode() & 0o022 != 0 => Finding::problem(
            "config",
            format!("{}: others than its owner may change who has which right", shown(file)),
            format!("chown root:qga {0}; chmod 0640 {0}", file.display()),
        ),
        _ => Finding::ok("config", shown(file)),
    }
}

fn state_dir(path: &Path, account: &Account) -> Finding {
    let about = "state_dir";
    let Ok(found) = fs::metadata(path) else {
        let what = format!("{} does not exist; the gateway makes it", path.display());
        return Finding::note(about, what);
    };
    let mend = format!("chown {0} {1}; chmod 0700 {1}", account.user, path.display());
    if !found.is_dir() {
        Finding::problem(about, format!("{} is no directory", path.display()), "remove it")
    } else if found.mode() & 0o022 != 0 {
        Finding::problem(about, format!("{}: others may write to it", shown(path)), mend)
    } else if found.uid() != account.uid && account.uid != 0 {
        let what = format!("{}: it is not that of {account}", shown(path));
        Finding::problem(about, what, mend)
    } else {
        Finding::ok(about, shown(path))
    }
}

fn socket(path: &Path) -> Option<Finding> {
    let about = "listen";
    let directory = path.parent()?;
    if !directory.is_dir() {
        let what = format!("{} does not exist", directory.display());
        return Some(Finding::problem(about, what, "systemd-tmpfiles --create, or make it"));
    }
    let found = fs::symlink_metadata(path).ok()?;
    Some(if !found.file_type().is_socket() {
        let what = format!("{} is no socket", path.display());
        Finding::problem(about, what, "remove it, or name another path in listen.unix")
    } else if found.mode() & 0o007 != 0 {
        let what = format!("{}: everybody may connect", shown(path));
        Finding::problem(about, what, format!("chmod 0660 {}", path.display()))
    } else {
        Finding::ok(about, shown(path))
    })
}

fn token(secret: &SecretFile, account: &Account) -> Finding {
    let about = "token_file";
    let SecretFile::Path(path) = secret else {
        // Where it is, only the unit knows while it runs.
        return Finding::ok(about, format!("{secret}, which LoadCredential= in the unit names"));
    };
    match fs::symlink_metadata(path) {
        Err(_) => Finding::note(about, format!("{} does not exist; it is made", path.display())),
        Ok(found) if found.mode() & 0o077 != 0 => Finding::problem(
            about,
            format!("{}: others may read it, so the token may be known", shown(path)),
            format!("rm {}, and restart the gateway, which makes a new one", path.display()),
        ),
        Ok(found) if found.uid() != account.uid && account.uid != 0 => Finding::problem(
            about,
            format!("{}: {account} may not read it", shown(path)),
            format!("chown {} {}", account.user, path.display()),
        ),
        Ok(_) => Finding::ok(about, shown(path)),
    }
}

fn expired(config: &Config) -> Vec<Finding> {
    let over = config.tokens.iter().filter(|token| token.is_over());
    over.map(|token| {
        let name = &token.name;
        let what = format!("token:{name} is refused since it has expired");
        Finding::problem("token", what, format!("remove it, or: qga-gateway token new {name}"))
    })
    .collect()
}

/// Principals that nobody can be.
fn nobody(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for (n, grant) in config.grants.iter().enumerate() {
        for to in &grant.to {
            let to = to.as_str();
            let number = |kind| to.strip_prefix(kind).and_then(|n| n.parse::<u32>().ok());
            let finding = if let Some(name) = to.strip_prefix("token:") {
                let known = config.tokens.iter().any(|token| token.name.to_string() == name);
                let own = name == "default" && config.listen.tcp.is_some();
                (!known && !own).then(|| {
                    let what = format!("grant[{n}] is for {to}, and there is no such token");
                    Finding::problem("grant", what, format!("qga-gateway token new {name}"))
                })
            } else {
                let missing = number("unix:uid=").is_some_and(|uid| !is_user(uid))
                    || number("unix:gid=").is_some_and(|gid| !is_group(gid));
                missing.then(|| {
                    let what = format!("grant[{n}] is for {to}, whom /etc has no name for");
                    Finding::note("grant", what)
                })
            };
            found.extend(finding);
        }
    }
    if config.grants.is_empty() {
        let what =
            "there is none: only root over the socket and the token file's token have rights";
        found.push(Finding::note("grant", what));
    }
    found
}

/// Grants whose globs match none of the VMs that there are now.
pub(super) fn grants_without_vms(config: &Config, vms: &[VmFinding]) -> Vec<Finding> {
    let idle = |globs: &[glob::Pattern]| {
        !vms.iter().any(|vm| globs.iter().any(|glob| glob.matches(&vm.id)))
    };
    let grants = config.grants.iter().enumerate().filter(|_| !vms.is_empty());
    grants
        .filter_map(|(n, grant)| {
            let globs = grant.vms.as_deref().filter(|globs| idle(globs))?;
            let globs: Vec<_> = globs.iter().map(glob::Pattern::as_str).collect();
            let what = format!("grant[{n}] is on {}: no VM is called so now", globs.join(", "));
            Some(Finding::note("grant", what))
        })
        .collect()
}
