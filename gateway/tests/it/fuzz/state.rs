//! A damaged state file: the gateway refuses it and says so, or finds every lease that was in it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use qga_gateway::config::Config;
use qga_gateway::replies::Replies;
use qga_gateway::store::{LoadError, StateDir, Store};
use qga_gateway::vm::{Leases, Registry};
use tempfile::tempdir;

use super::corpus;

const LEASES: [&str; 2] =
    ["frz_8c3cfbaa4bae0953313e90e9981a137f", "frz_b214be2f4669c218023ec9931df00ea7"];

/// The leases that are found, as they read.
fn load(dir: &Path) -> Result<Vec<String>, LoadError> {
    let config = format!("[listen]\nunix = {:?}\n", dir.join("api.sock"));
    let registry = Registry::start(&Config::parse(&config, "test.toml".as_ref()).unwrap());
    let store = Store::open(StateDir::open(&dir.join("state")).unwrap());
    let loaded = store.and_then(|store| {
        let leases = Leases::load(&registry, store.clone())?;
        Replies::load(&registry, store)?;
        let ids = LEASES.iter().filter_map(|id| leases.get(&id.parse().unwrap()));
        Ok(ids.map(|lease| format!("{} {} {:?}", lease.id, lease.owner, lease.label)).collect())
    });
    registry.close();
    loaded
}

/// Damage by a few changes; each eight bytes of the input are one.
fn damaged(mut file: Vec<u8>, input: &[u8]) -> Vec<u8> {
    for change in input.chunks_exact(8).take(16) {
        let [kind, value, length @ .., _, _, _, _] = *<&[u8; 8]>::try_from(change).unwrap();
        let at = u32::from_le_bytes(*change.last_chunk().unwrap());
        let at = usize::try_from(at).unwrap() % (file.len() + 1);
        let end = (at + usize::from(u16::from_le_bytes(length))).min(file.len());
        match kind % 5 {
            // The head of the file is where it hurts most.
            0 => file.iter_mut().skip(at % 512).take(1).for_each(|byte| *byte = value),
            1 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= value),
            2 => file[at..end].fill(value),
            3 => file.truncate(at),
            _ => file.extend(std::iter::repeat_n(value, end - at)),
        }
    }
    file
}

#[test]
fn whatever_happens_to_the_file_no_lease_is_lost_in_silence() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-1.redb");
    let fixture = fs::read(fixture).unwrap();
    // What redb says while it panics over a damaged file is not this test's to say.
    let loaded = |file: &[u8]| {
        let dir = tempdir().unwrap();
        drop(StateDir::open(&dir.path().join("state")).unwrap());
        fs::write(dir.path().join("state/state.redb"), file).unwrap();
        // With all that was begun, and the threads that write.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let load = || runtime.block_on(async { load(dir.path()) });
        catch_unwind(AssertUnwindSafe(load)).expect("no panic comes out")
    };
    let whole = loaded(&fixture).unwrap();
    assert_eq!(whole.len(), 2);
    qga_testing::fuzz(&corpus("state"), 150, |input| {
        let file = damaged(fixture.clone(), input);
        match loaded(&file) {
            Ok(found) => {
                assert_eq!(found, whole, "lost, and nobody says so");
                0
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("state.redb: "), "{said}");
                assert!(!said.contains('\n'), "one line: {said}");
                qga_testing::digest(said.split_once("state.redb: ").map(|(_, why)| why.to_owned()))
            }
        }
    });
}
