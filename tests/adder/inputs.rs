//! What is added, the same each time.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Numbers that look random (splitmix64).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Writes a file and the folders it is in.
pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Folders in folders, files of all sizes, links, empty and hidden things, names of all kinds, modes and times.
pub(crate) fn random_tree(root: &Path, noise: &mut Noise) {
    fs::create_dir(root).unwrap();
    fill(root, noise, 4);
    dress(root, noise);
}

fn fill(folder: &Path, noise: &mut Noise, depth: usize) {
    const NAMES: [&str; 8] = ["a", "b b", "ünï", ".hidden", "Z", "a.txt", "日本", "x%2Fy"];
    for index in 0..noise.below(7) {
        let name = format!("{}{index}", NAMES[noise.below(NAMES.len())]);
        let path = folder.join(name);
        match noise.below(8) {
            0 => std::os::unix::fs::symlink(format!("../{index}/nowhere"), &path).unwrap(),
            1 | 2 if depth > 0 => {
                fs::create_dir(&path).unwrap();
                fill(&path, noise, depth - 1);
                dress(&path, noise);
            }
            3 => fs::write(&path, b"").unwrap(),
            _ => {
                let bytes = [10, 200, 20_000, 300_000][noise.below(4)];
                let bytes = noise.below(bytes);
                fs::write(&path, noise.bytes(bytes)).unwrap();
                dress(&path, noise);
            }
        }
    }
}

/// Gives it a mode with which it can still be read, and a time with or without nanoseconds.
fn dress(path: &Path, noise: &mut Noise) {
    let time = UNIX_EPOCH + Duration::new(noise.next() % 2_000_000_000, [0, 1, 999_999_999][noise.below(3)]);
    File::open(path).unwrap().set_modified(time).unwrap();
    let mode = [0o755, 0o700, 0o777, 0o500, 0o1755][noise.below(5)];
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
