//! What is known of a device: the kernel's `uevent` file, and udev's database.
//!
//! A `uevent` file has lines `KEY=value`. An entry of the database has a letter and a colon in
//! front; `E:` is for properties.

/// The properties that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    /// Major and minor number.
    pub(super) number: Option<(u32, u32)>,
    /// The device node.
    pub(super) node: Option<String>,
    pub(super) serial: Option<String>,
    /// The device mapper's name.
    pub(super) mapper_name: Option<String>,
}

impl Properties {
    pub(super) fn take_uevent(&mut self, uevent: &[u8]) {
        let value = |name| value(uevent, b"", name);
        let number = |name| value(name)?.parse().ok();
        self.number = number("MAJOR").zip(number("MINOR"));
        self.node = value("DEVNAME").map(|name| format!("/dev/{name}"));
    }

    pub(super) fn take_database(&mut self, entry: &[u8]) {
        let value = |name| value(entry, b"E:", name);
        self.serial = value("ID_SERIAL");
        self.mapper_name = value("DM_NAME");
    }
}

/// The value of the last line with this name; an empty one counts as none.
fn value(text: &[u8], prefix: &[u8], name: &str) -> Option<String> {
    let lines = text.split(|&byte| byte == b'\n').rev();
    let mut values = lines.filter_map(|line| {
        line.strip_prefix(prefix)?.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    });
    let value = String::from_utf8_lossy(values.next()?).into_owned();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(uevent: &[u8], entry: &[u8]) -> Properties {
        let mut properties = Properties::default();
        properties.take_uevent(uevent);
        properties.take_database(entry);
        properties
    }

    #[test]
    fn properties_come_from_both_files() {
        let uevent = b"MAJOR=253\nMINOR=1\nDEVNAME=dm-1\nDEVTYPE=disk\nDISKSEQ=9\n";
        let entry = b"S:mapper/vg-root\nE:DM_NAME=vg-root\nE:ID_SERIAL_SHORT=x\nE:ID_SERIAL=a b\n";
        let expected = Properties {
            number: Some((253, 1)),
            node: Some("/dev/dm-1".into()),
            serial: Some("a b".into()),
            mapper_name: Some("vg-root".into()),
        };
        assert_eq!(read(uevent, entry), expected);
        assert_eq!(read(b"MAJOR=x\nMINOR=1", b"E:ID_SERIAL=\nID_SERIAL=x"), Properties::default());
    }

    #[test]
    fn real_files_are_read() {
        for (directory, is_entry) in [("uevent", false), ("udev", true)] {
            for file in std::fs::read_dir(format!("tests/corpus/{directory}")).unwrap() {
                let text = std::fs::read(file.unwrap().path()).unwrap();
                let (uevent, entry) =
                    if is_entry { (&[][..], &text[..]) } else { (&text[..], &[][..]) };
                let properties = read(uevent, entry);
                assert_eq!(properties.number.is_some() && properties.node.is_some(), !is_entry);
                assert_eq!(properties.serial.is_some(), is_entry);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(uevent: Vec<u8>, entry: Vec<u8>) {
            read(&uevent, &entry);
        }
    }
}
