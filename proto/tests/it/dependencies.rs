//! The crate stays free of I/O by having nothing that does any.

#[test]
fn only_these_crates_are_depended_on() {
    let manifest: String = include_str!("../../Cargo.toml").to_owned();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let mut names: Vec<&str> = section
        .lines()
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["base64-simd", "serde", "serde_json", "thiserror", "utoipa"]);
}
