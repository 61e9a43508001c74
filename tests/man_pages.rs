//! docs/man is what the program itself writes.

use assert_cmd::Command;

#[test]
fn the_man_pages_are_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    Command::cargo_bin("harden-portsentry").unwrap().arg("man").arg(fresh.path()).assert().success();
    let read = |directory: &std::path::Path| {
        let mut pages: Vec<(String, String)> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap())
            })
            .collect();
        pages.sort();
        pages
    };
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man");
    assert!(read(fresh.path()) == read(&kept), "run: cargo run -- man docs/man");
}
