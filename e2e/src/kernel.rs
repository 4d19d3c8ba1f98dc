//! The guest's kernel and the modules that it needs, in the order to load them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the guest cannot do without. Modules that are built into this kernel are skipped.
/// btrfs asks for its checksums by name at run time, so they come before it, and vfat for its two
/// character sets.
const WANTED: [&str; 12] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_intel",
    "xxhash_generic",
    "blake2b_generic",
    "xfs",
    "btrfs",
    "loop",
    "nls_cp437",
    "nls_ascii",
    "vfat",
];

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Path of `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Module files, each after all that it depends on.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Looks into the unpacked package at `root`.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let image = fs::read_dir(root.join("boot"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"vmlinuz-"))
            })
            .context("the kernel package holds no vmlinuz")?;
        let mut files = HashMap::new();
        collect_modules(&root.join("lib/modules"), &mut files)?;
        let mut modules = Vec::new();
        for name in WANTED {
            add_with_dependencies(name, &files, &mut modules)?;
        }
        Ok(Self { image, modules })
    }
}

fn collect_modules(dir: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            collect_modules(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "ko")
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The package has no `modules.dep` (installing it would make one), but every module names
/// its dependencies itself. Module graphs have no cycles.
fn add_with_dependencies(
    name: &str,
    files: &HashMap<String, PathBuf>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    let Some(path) = files.get(&name.replace('-', "_")) else {
        return Ok(()); // built in
    };
    if order.contains(path) {
        return Ok(());
    }
    let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    for dependency in dependencies(&content) {
        add_with_dependencies(&dependency, files, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The names in a module's `depends=` entry of `.modinfo`, a list of NUL-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn reads_modinfo() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio,virtio_ring\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["virtio", "virtio_ring"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
    }
}
