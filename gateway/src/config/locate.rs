//! From a place in the config file's text to its line and key, and back, for messages.

/// The line (from 1) and the key at a byte of `text`: `limits.queue_depth`, `vm[1].id`, or just the
/// table when the byte lies in none of its keys.
pub(super) fn locate(text: &str, offset: usize) -> (usize, String) {
    let mut place = (1, String::new());
    let mut start = 0;
    walk(text, |number, line, key| {
        if start <= offset {
            place = (number, key.to_owned());
        }
        start += line.len() + 1;
    });
    place
}

/// The byte where `key` stands, or its table, or the beginning.
pub(super) fn find(text: &str, key: &str) -> usize {
    let table = key.rsplit_once('.').map_or("", |(table, _)| table);
    let (mut start, mut exact, mut near) = (0, None, 0);
    walk(text, |_, line, here| {
        if here == key {
            exact.get_or_insert(start);
        } else if here == table {
            near = start;
        }
        start += line.len() + 1;
    });
    exact.unwrap_or(near)
}

/// Calls `see` with each line's number, text and key. Reads headers and `key =` beginnings only:
/// enough for a message, and wrong at worst by naming the table instead of the key.
fn walk<'a>(text: &'a str, mut see: impl FnMut(usize, &'a str, &str)) {
    let mut table = String::new();
    let mut arrays: Vec<(&str, usize)> = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        let trimmed = line.trim();
        let header = trimmed.strip_prefix("[[").and_then(|rest| rest.split_once("]]"));
        if let Some((name, _)) = header {
            let name = name.trim();
            let index = match arrays.iter_mut().find(|(array, _)| *array == name) {
                Some((_, index)) => {
                    *index += 1;
                    *index
                }
                None => {
                    arrays.push((name, 0));
                    0
                }
            };
            table = format!("{name}[{index}]");
        } else if let Some((name, _)) =
            trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        {
            name.trim().clone_into(&mut table);
        }
        let key = trimmed.split_once('=').map(|(key, _)| key.trim()).filter(|key| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        });
        match key {
            Some(key) if table.is_empty() => see(n + 1, line, key),
            Some(key) => see(n + 1, line, &format!("{table}.{key}")),
            None => see(n + 1, line, &table),
        }
    }
}
