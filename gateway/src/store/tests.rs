use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;

#[derive(Default)]
struct Rows(Mutex<HashMap<String, Vec<u8>>>);

impl Records for Rows {
    fn record(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

fn key(name: &str) -> Key {
    Key { kind: Kind::Lease, name: name.into() }
}

fn open(dir: &Path) -> (Store, Arc<Rows>) {
    let store = Store::open(StateDir::open(dir).unwrap()).unwrap();
    let rows = mirrored(&store);
    (store, rows)
}

fn mirrored(store: &Store) -> Arc<Rows> {
    let rows = Arc::new(Rows::default());
    rows.0.lock().unwrap().extend(store.take(Kind::Lease));
    let records: Arc<dyn Records> = rows.clone();
    store.mirror(Kind::Lease, Arc::downgrade(&records));
    rows
}

#[tokio::test]
async fn what_was_synced_is_there_again_and_what_was_removed_is_not() {
    let dir = tempdir().unwrap();
    let (store, rows) = open(dir.path());
    for name in ["a", "b", "c"] {
        rows.0.lock().unwrap().insert(name.into(), name.into());
    }
    store.sync(["a", "b"].map(key)).await.unwrap();
    // Noted only: written when the store is let go of, at the latest.
    store.note(key("c"));
    drop(store);
    let (store, rows) = open(dir.path());
    assert_eq!(rows.0.lock().unwrap().len(), 3);
    rows.0.lock().unwrap().remove("b");
    store.sync([key("b")]).await.unwrap();
    drop((store, rows));
    let (_store, rows) = open(dir.path());
    let names: BTreeMap<_, _> = rows.0.lock().unwrap().clone().into_iter().collect();
    assert_eq!(names.into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test]
async fn those_who_wait_at_once_wait_for_one_write() {
    let store = Store::in_memory();
    let rows = mirrored(&store);
    let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    for name in &names {
        rows.0.lock().unwrap().insert(name.clone(), Vec::new());
    }
    let waiting = names.iter().map(|name| store.sync([key(name)]));
    for result in futures_util::future::join_all(waiting).await {
        result.unwrap();
    }
    store.flush().await.unwrap();
}

#[test]
fn one_gateway_per_directory_that_only_its_owner_writes() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempdir().unwrap();
    let path = dir.path().join("state");
    let held = StateDir::open(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let error = StateDir::open(&path).unwrap_err();
    assert!(error.to_string().contains("another gateway is using it"), "{error}");
    drop(held);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
    let error = StateDir::open(Path::new("/proc/none")).unwrap_err();
    assert!(error.to_string().starts_with("state_dir /proc/none: "), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("state.redb");
    {
        let (store, rows) = open(dir.path());
        for n in 0..200 {
            let name = n.to_string();
            rows.0.lock().unwrap().insert(name.clone(), vec![b'x'; 500]);
            store.note(key(&name));
        }
        store.flush().await.unwrap();
    }
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 61) {
        let mut broken = whole.clone();
        for byte in broken.iter_mut().skip(at).take(64) {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, &broken).unwrap();
        match Store::open(StateDir::open(dir.path()).unwrap()) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("move it away"), "{error}");
            }
            // Where nothing lies, nothing is missing.
            Ok(store) => assert_eq!(store.take(Kind::Lease).len(), 200, "at {at}"),
        }
    }
    assert!(refused > 0);
    for text in ["{}", "not a state"] {
        std::fs::write(&file, text).unwrap();
        assert!(Store::open(StateDir::open(dir.path()).unwrap()).is_err(), "{text}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8),
    Sync(u8),
    Note(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, any::<u8>()).prop_map(|(name, value)| Step::Put(name, value)),
        2 => (0..6u8).prop_map(Step::Remove),
        3 => (0..6u8).prop_map(Step::Sync),
        3 => (0..6u8).prop_map(Step::Note),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The model: what a record was when it was last synced or noted, or later.
    #[test]
    fn the_disk_has_what_was_said_to_have_changed(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempdir().unwrap();
            let (mut store, mut rows) = open(dir.path());
            let mut told: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
            for step in steps {
                let row = |name: &str| rows.0.lock().unwrap().get(name).cloned();
                match step {
                    Step::Put(name, value) => {
                        // A change that is not said is nobody's: say it at once.
                        let name = name.to_string();
                        rows.0.lock().unwrap().insert(name.clone(), vec![value]);
                        store.note(key(&name));
                        told.insert(name, Some(vec![value]));
                    }
                    Step::Remove(name) => {
                        let name = name.to_string();
                        rows.0.lock().unwrap().remove(&name);
                        store.note(key(&name));
                        told.insert(name, None);
                    }
                    Step::Sync(name) => {
                        let name = name.to_string();
                        store.sync([key(&name)]).await.unwrap();
                        told.insert(name.clone(), row(&name));
                    }
                    Step::Note(name) => store.note(key(&name.to_string())),
                    Step::Reopen => {
                        drop(store);
                        drop(rows);
                        (store, rows) = open(dir.path());
                        for (name, value) in &told {
                            let found = rows.0.lock().unwrap().get(name).cloned();
                            assert_eq!(&found, value, "{name}");
                        }
                    }
                }
            }
        });
    }
}
