//! The picture in a real browser: Chromium without a screen, as Debian has it. Skipped, and said so, where there is
//! none. Screenshots are kept in `target/tmp/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const WIDTH: u32 = 1_240;
const HEIGHT: u32 = 1_400;

#[expect(clippy::print_stdout, reason = "whoever reads the tests must see what was not tested")]
fn chromium() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        println!("SKIPPED: there is no chromium here (Debian: apt-get install chromium)");
    }
    found
}

/// All pixels of a page, as red, green and blue.
fn screenshot(browser: &str, page: &Path, dark: bool) -> Vec<[u8; 3]> {
    let name = if dark { "timeline-dark.png" } else { "timeline-light.png" };
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (image, profile) = (directory.join(name), directory.join(format!("{name}.profile")));
    let scheme = if dark { "preferredColorScheme=0" } else { "preferredColorScheme=1" };
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ])
        .args(["--force-device-scale-factor=1", "--host-resolver-rules=MAP * ~NOTFOUND"])
        .arg(format!("--blink-settings={scheme}"))
        .arg(format!("--window-size={WIDTH},{HEIGHT}"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", image.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("it was found a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut decoder = png::Decoder::new(std::io::BufReader::new(
        std::fs::File::open(&image).expect("the browser wrote it"),
    ));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().expect("it is a picture");
    let mut bytes = vec![0; reader.output_buffer_size().expect("it fits into memory")];
    let info = reader.next_frame(&mut bytes).expect("it is a picture");
    assert_eq!(info.width, WIDTH);
    let samples = info.color_type.samples();
    bytes[..info.buffer_size()].chunks(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}

fn count(pixels: &[[u8; 3]], colour: [u8; 3]) -> usize {
    pixels.iter().filter(|pixel| **pixel == colour).count()
}

/// FEATURES P11, B5. What `run --html` writes is drawn by a browser without a network, in light and in dark.
#[test]
fn a_browser_draws_the_page_in_light_and_in_dark() {
    let Some(browser) = chromium() else { return };
    let page = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("timeline.html");
    let run = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["run", "three-node-partition", "--seed", "1", "--html", page.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    let (light, dark) = (screenshot(browser, &page, false), screenshot(browser, &page, true));
    // Background, the two sides of the partition, the time in which all must agree: the colours of style.css.
    for (pixels, name, wanted) in [
        (&light, "light", [[0xff, 0xff, 0xff], [0x4f, 0x8f, 0xf7], [0xf2, 0xa3, 0x3a]]),
        (&dark, "dark", [[0x0d, 0x11, 0x17], [0x3b, 0x78, 0xdd], [0xd0, 0x8a, 0x24]]),
    ] {
        let [ground, one_side, other_side] = wanted.map(|colour| count(pixels, colour));
        assert!(ground > pixels.len() / 4, "{name}: {ground} of {} pixels are ground", pixels.len());
        assert!(
            one_side > 1_000 && other_side > 1_000,
            "{name}: {one_side} and {other_side} pixels of the sides"
        );
        let colours: BTreeSet<[u8; 3]> = pixels.iter().copied().collect();
        assert!(colours.len() > 50, "{name}: {} colours", colours.len());
    }
}
