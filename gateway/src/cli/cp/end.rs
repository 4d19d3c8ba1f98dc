//! The two ends of a copy, as they stand on the command line.

use std::path::PathBuf;

use qga_gateway::vm::VmId;

use super::Remote;
use crate::cli::exit::Usage;

/// Where something is, or is to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `VM:/PATH`.
    Remote(Remote),
    /// A path here.
    Local(PathBuf),
    /// `-`.
    Stream,
}

impl End {
    /// A path in a guest begins with a slash, or with a drive (`C:\`). Ids of VMs may hold colons, so
    /// the one before that counts. What has a slash before its colon is a path here, as for scp.
    pub(super) fn of(text: &str) -> Result<Self, Usage> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let drive = |at: &usize| {
            let path = text.as_bytes().get(at + 1..).unwrap_or_default();
            matches!(path, [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic())
        };
        let colons: Vec<_> = text.match_indices(':').map(|(at, _)| at).collect();
        let slash = |at: &usize| text.as_bytes().get(at + 1) == Some(&b'/');
        let at = colons.iter().find(|at| drive(at)).or_else(|| colons.iter().find(|at| slash(at)));
        if let Some(at) = at
            && text[..*at].parse::<VmId>().is_ok()
        {
            let (vm, path) = (text[..*at].to_owned(), text[at + 1..].into());
            return Ok(Self::Remote(Remote { vm, path }));
        }
        if let Some((vm, path)) = text.split_once(':')
            && vm.parse::<VmId>().is_ok()
            && !PathBuf::from(text).exists()
        {
            return Err(Usage(format!(
                "{text}: a path in a guest begins with a slash: {vm}:/{path}; a file here that is \
                 called so is ./{text}"
            )));
        }
        Ok(Self::Local(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let remote =
            |vm: &str, path: &str| End::Remote(Remote { vm: vm.into(), path: path.into() });
        for (text, end) in [
            ("web-1:/etc/motd", remote("web-1", "/etc/motd")),
            ("a:b@c:/x:/y", remote("a:b@c", "/x:/y")),
            ("win:C:\\Temp\\x", remote("win", "C:\\Temp\\x")),
            ("win:c:/x", remote("win", "c:/x")),
            ("./web-1:/etc", End::Local("./web-1:/etc".into())),
            ("/tmp/a:/b", End::Local("/tmp/a:/b".into())),
            ("motd", End::Local("motd".into())),
            ("-", End::Stream),
        ] {
            assert_eq!(End::of(text).unwrap(), end, "{text}");
        }
        assert!(End::of("web-1:etc").unwrap_err().0.contains("web-1:/etc"));
        assert!(End::of("web-1:").is_err());
    }
}
