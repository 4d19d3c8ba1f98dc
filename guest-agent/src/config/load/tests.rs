use super::*;
use crate::freeze::settings::FreezeSettings;

fn loaded(text: &str) -> Config {
    let mut config = Config::default();
    apply(&mut config, text.as_bytes()).unwrap();
    config
}

fn refused(text: &str) -> String {
    apply(&mut Config::default(), text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn every_key_of_qemu_ga_is_read_and_dumped_in_its_order() {
    let text = "[general]\ndaemon=true\nmethod=unix-listen\npath=/p\nlogfile=/l\npidfile=/pid\n\
                fsfreeze-hook=/h\nstatedir=/s\nverbose=true\nretry-path=true\nblock-rpcs=a,b\n\
                allow-rpcs=c,,d\n";
    let dumped = text.replace("a,b", "b,a").replace("c,,d", "d,,c");
    assert_eq!(loaded(text).dump(), dumped);
    assert_eq!(
        Config::default().dump(),
        "[general]\ndaemon=false\nmethod=virtio-serial\n\
         path=/dev/virtio-ports/org.qemu.guest_agent.0\npidfile=/var/run/qemu-ga.pid\n\
         statedir=/var/run\nverbose=false\nretry-path=false\nblock-rpcs=\nallow-rpcs=\n"
    );
}

#[test]
fn what_is_not_known_is_passed_over_in_general_only() {
    assert_eq!(loaded("[general]\nfoo=bar\n[other]\nx=1\n"), Config::default());
    assert_eq!(refused("[channel x]\nmetod=unix-listen\n"), "group “channel x” has no key “metod”");
    assert_eq!(refused("[policy]\nfiles=/x\n"), "group “policy” has no key “files”");
    assert_eq!(refused("[channel]\n"), "group “channel” lacks its name: [channel NAME]");
    assert_eq!(loaded("[general]\nblacklist=a\n").lists.block, ["a"]);
}

#[test]
fn our_own_keys_come_back_from_a_dump() {
    let text = "[general]\nhook-timeout=30\nfreeze-deadline=0\n[channel libvirt]\n\
                block-rpcs=guest-exec\n[channel gateway]\npath=/g\nretry-path=true\n\
                [policy]\nfile-paths=/srv, /etc/hostname\nexec-programs=\n";
    let config = loaded(text);
    assert_eq!(
        config.freeze,
        FreezeSettings { hook: None, hook_timeout: Duration::from_secs(30), deadline: None }
    );
    assert!(!config.has_general_channel());
    assert_eq!(loaded(&config.dump()), config);
    let channels = config.channels();
    assert_eq!(channels.len(), 2);
    let default = PathBuf::from("/dev/virtio-ports/org.qemu.guest_agent.0");
    assert_eq!((channels[0].path.clone(), channels[0].retry), (Some(default), false));
    assert_eq!((channels[1].path.clone(), channels[1].retry), (Some("/g".into()), true));
    assert_eq!([0, 1].map(|n| channels[n].filter.allows("guest-exec")), [false, true]);
    let policy = &config.policy;
    assert_eq!(policy.file_paths().unwrap(), [PathBuf::from("/srv"), "/etc/hostname".into()]);
    assert_eq!(policy.exec_programs(), Some([].as_slice()));
}

#[test]
fn what_general_forbids_is_off_on_every_channel() {
    let config = loaded(
        "[general]\npath=/p\nblock-rpcs=guest-exec\n[channel x]\nallow-rpcs=guest-exec,guest-ping\n",
    );
    let channels = config.channels();
    assert_eq!(channels.len(), 2);
    assert!(channels.iter().all(|channel| !channel.filter.allows("guest-exec")));
    let get_time = [0, 1].map(|n: usize| channels[n].filter.allows("guest-get-time"));
    assert_eq!(get_time, [true, false]);
}

#[test]
fn values_that_make_no_sense_are_named() {
    for (text, error) in [
        ("hook-timeout=0", "key “hook-timeout” is to be a number of seconds above 0, not “0”"),
        (
            "freeze-deadline=1m",
            "key “freeze-deadline” is to be a number of seconds, or 0 for never, not “1m”",
        ),
        (
            "verbose=yes",
            "Key file contains key “verbose” which has a value that cannot be interpreted.",
        ),
    ] {
        assert_eq!(refused(&format!("[general]\n{text}\n")), error);
    }
    for path in ["x", "/x/../y"] {
        assert_eq!(
            refused(&format!("[policy]\nfile-paths=/a,{path}\n")),
            format!(
                "key “file-paths” is to be a list of absolute paths without “..”, not “{path}”"
            )
        );
    }
    let many: String = (0..17).map(|n| format!("[channel {n}]\n")).collect();
    assert_eq!(refused(&many), "more than 16 channels");
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[general]\nverbose=1\n").unwrap();
    let load_with = |mode| {
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        load(&mut Config::default(), file.path(), false).map_err(|e| e.to_string())
    };
    load_with(0o600).unwrap();
    load_with(0o644).unwrap();
    for mode in [0o664_u32, 0o646] {
        let error = load_with(mode).unwrap_err();
        let path = file.path().display();
        let start = format!(
            "error loading configuration from path: {path}, it can be written by others than its \
             owner (mode {mode:04o})"
        );
        assert!(error.starts_with(&start), "{error}");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(file.path(), Some(65534), None).unwrap();
        let error = load_with(0o644).unwrap_err();
        assert!(error.contains("it belongs to user 65534"), "{error}");
    } else {
        println!("skipped: another owner (not root)");
    }
}

#[test]
fn only_a_required_file_must_exist() {
    let mut config = Config::default();
    load(&mut config, Path::new("/nonexistent"), false).unwrap();
    let error = load(&mut config, Path::new("/nonexistent"), true).unwrap_err().to_string();
    assert_eq!(
        error,
        "error loading configuration from path: /nonexistent, No such file or directory"
    );
    let error = load(&mut config, Path::new("/"), false).unwrap_err().to_string();
    assert_eq!(error, "error loading configuration from path: /, Not a regular file");
}

#[test]
fn the_example_is_valid() {
    let text = include_str!("../../../../deploy/qga-agent.conf");
    let config = loaded(text);
    let paths: Vec<_> = config.channels().into_iter().filter_map(|c| c.path).collect();
    assert_eq!(
        paths,
        [
            PathBuf::from("/dev/virtio-ports/org.qemu.guest_agent.0"),
            "/dev/virtio-ports/org.qga.gateway.0".into()
        ]
    );
    assert!(config.channels().iter().all(|channel| channel.retry));
}

#[test]
fn the_page_lists_every_key_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let agent = page.split("\n## ").find(|part| part.starts_with("The agent")).unwrap();
    let listed = |group: &str| -> Vec<&str> {
        let heading = format!("`[{group}]`\n");
        let part = agent.split("\n### ").find(|part| part.starts_with(&heading)).unwrap();
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('`').next()).collect()
    };
    assert_eq!(listed("general"), GENERAL_KEYS);
    assert_eq!(listed("channel NAME"), CHANNEL_KEYS);
    assert_eq!(listed("policy"), POLICY_KEYS);
}
