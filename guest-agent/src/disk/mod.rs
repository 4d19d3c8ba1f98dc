//! Block devices, as the kernel shows them below `/sys` and udev below `/run/udev`.
//!
//! qemu-ga asks libudev; what it would answer stands in a device's `uevent` file and in udev's own
//! database, both of which are read here. All of it may block on a device that does not answer.

pub(crate) mod address;
pub(crate) mod list;
pub(crate) mod smart;
pub(crate) mod statistics;
mod udev;

use std::io;
use std::path::{Path, PathBuf};

use self::udev::Properties;

/// Where the kernel and udev show what they know.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) sys: PathBuf,
    pub(crate) run: PathBuf,
}

impl Roots {
    /// Those of this system.
    pub(crate) fn system() -> Self {
        Self { sys: "/sys".into(), run: "/run".into() }
    }

    /// The device that a path below `/sys` leads to.
    fn device(&self, link: &Path) -> io::Result<Device<'_>> {
        let directory = std::fs::canonicalize(link)?;
        let sys = std::fs::canonicalize(&self.sys)?;
        let inside = directory.strip_prefix(&sys).unwrap_or(&directory);
        let name = format!("/{}", inside.to_string_lossy());
        Ok(Device { roots: self, directory, name })
    }

    /// The block device with this number, as `8:1`.
    pub(crate) fn block_device(&self, number: &str) -> io::Result<Device<'_>> {
        self.device(&self.sys.join("dev/block").join(number))
    }
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    roots: &'a Roots,
    /// Free of links.
    directory: PathBuf,
    /// What stands behind `/sys`: `/devices/…`, which is what places are read from.
    name: String,
}

impl Device<'_> {
    /// The kernel's name of it, as `sda1`.
    pub(crate) fn kernel_name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Device mapper, md, loop and the like: made by the kernel of something else.
    fn is_virtual(&self) -> bool {
        self.name.contains("/devices/virtual/block/")
    }

    /// What it is made of, or lies on; `None` if the kernel does not say.
    fn slaves(&self) -> Option<Vec<Self>> {
        let mut slaves: Vec<_> = std::fs::read_dir(self.directory.join("slaves"))
            .ok()?
            .filter_map(|entry| self.roots.device(&entry.ok()?.path()).ok())
            .collect();
        slaves.sort_by(|a, b| a.directory.cmp(&b.directory));
        Some(slaves)
    }

    /// What the kernel and udev know of it.
    fn properties(&self) -> Properties {
        let mut properties = Properties::default();
        if let Ok(uevent) = std::fs::read(self.directory.join("uevent")) {
            properties.take_uevent(&uevent);
        }
        if let Some((major, minor)) = properties.number {
            let entry = self.roots.run.join(format!("udev/data/b{major}:{minor}"));
            if let Ok(entry) = std::fs::read(entry) {
                properties.take_database(&entry);
            }
        }
        properties
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A `/sys` and a `/run` of a test's own.
    pub(crate) struct Tree {
        pub(crate) roots: Roots,
        _dir: tempfile::TempDir,
    }

    impl Tree {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let roots = Roots { sys: dir.path().join("sys"), run: dir.path().join("run") };
            for path in ["block", "dev/block"] {
                std::fs::create_dir_all(roots.sys.join(path)).unwrap();
            }
            std::fs::create_dir_all(roots.run.join("udev/data")).unwrap();
            Self { roots, _dir: dir }
        }

        fn file(path: &Path, text: &str) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// A directory of `/sys` with a driver.
        pub(crate) fn driver(&self, device: &str, driver: &str) -> &Self {
            let device = self.roots.sys.join(device.trim_start_matches('/'));
            std::fs::create_dir_all(&device).unwrap();
            symlink(Path::new("../drivers").join(driver), device.join("driver")).unwrap();
            self
        }

        pub(crate) fn directory(&self, path: &str) -> &Self {
            std::fs::create_dir_all(self.roots.sys.join(path.trim_start_matches('/'))).unwrap();
            self
        }

        /// A disk or partition with its number and udev's entry.
        pub(crate) fn block(&self, device: &str, number: &str, database: &str) -> &Self {
            let path = self.roots.sys.join(device.trim_start_matches('/'));
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let (major, minor) = number.split_once(':').unwrap();
            let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE=disk\n");
            Self::file(&path.join("uevent"), &uevent);
            Self::file(&path.join("size"), "2048\n");
            symlink(&path, self.roots.sys.join("dev/block").join(number)).unwrap();
            if !path.parent().unwrap().join("uevent").exists() {
                symlink(&path, self.roots.sys.join("block").join(&name)).unwrap();
                std::fs::create_dir_all(path.join("slaves")).unwrap();
            }
            Self::file(&self.roots.run.join(format!("udev/data/b{number}")), database);
            self
        }

        pub(crate) fn size(&self, device: &str, size: &str) -> &Self {
            let path = self.roots.sys.join(device.trim_start_matches('/')).join("size");
            std::fs::write(path, size).unwrap();
            self
        }

        /// `device` lies on `slave`.
        pub(crate) fn slave(&self, device: &str, slave: &str) -> &Self {
            let slave = self.roots.sys.join(slave.trim_start_matches('/'));
            let slaves = self.roots.sys.join(device.trim_start_matches('/')).join("slaves");
            symlink(&slave, slaves.join(slave.file_name().unwrap())).unwrap();
            self
        }
    }
}
