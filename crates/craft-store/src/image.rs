//! Pictures: 8-bit RGB, read from PNG and JPEG, written as PNG.
//!
//! What is not 8-bit RGB becomes it as Pillow's `Image.open(..).convert("RGB")` does, which is what
//! the reward models were trained and are published with.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use crate::atomic;
use crate::error::{Result, StoreError};
use crate::input;
use crate::jpeg::{self, Fault};

/// Largest accepted width and height, in pixels.
pub const MAX_SIDE: u32 = 8192;
/// Largest picture file, and most memory that the PNG reader may take, in bytes. A JPEG takes up to
/// fifteen bytes a pixel.
pub const MAX_BYTES: u64 = 256 << 20;

/// A picture of 8-bit RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height × width × 3` bytes, row by row from the top, R G B.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// A picture from its bytes; `None` if their number is not `height × width × 3`, or a side is
    /// 0 or above [`MAX_SIDE`].
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Option<Self> {
        let sides = 1..=MAX_SIDE as usize;
        let fits = sides.contains(&width) && sides.contains(&height);
        (fits && data.len() == width * height * 3).then_some(Self { width, height, data })
    }

    /// A picture from planes of −1..1 ([3, height, width], as the VAE gives them): `(x + 1) / 2 ·
    /// 255`, clamped and rounded. Values that are not numbers become 0.
    pub fn from_planes(width: usize, height: usize, planes: &[f32]) -> Option<Self> {
        let area = width.checked_mul(height)?;
        if planes.len() != area.checked_mul(3)? {
            return None;
        }
        let byte = |x: f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let data = (0..area)
            .flat_map(|at| [0, 1, 2].map(|channel| byte(planes[channel * area + at])))
            .collect();
        Self::new(width, height, data)
    }

    /// Planes of −1..1, [3, height, width]: `byte / 127.5 − 1`.
    pub fn to_planes(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|channel| self.data.iter().skip(channel).step_by(3))
            .map(|byte| f32::from(*byte) / 127.5 - 1.0)
            .collect()
    }
}

/// Reads a PNG or JPEG, told apart by its first bytes, not by its name.
///
/// As Pillow does: greys and palettes become RGB; transparency is dropped; of 16 bits the upper 8 are
/// kept, except those of a grey picture without transparency, whose values above 255 become 255.
pub fn read(path: &Path) -> Result<RgbImage> {
    let bytes = input::read(path, MAX_BYTES)?;
    decode(&bytes).map_err(|message| StoreError::bad(path, message))
}

/// Decodes the bytes of a PNG or JPEG; errors are texts without a path.
pub fn decode(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        return jpeg::decode(bytes).map_err(jpeg_message);
    }
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let looks = match bytes {
            [b'G', b'I', b'F', b'8', ..] => " (it is a GIF, which may be animated)",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => " (it is a WebP)",
            [] => " (it is empty)",
            _ => "",
        };
        return Err(format!(
            "it is neither PNG nor JPEG{looks}: convert one picture to one of them"
        ));
    }
    if is_animated(bytes) {
        return Err(
            "it is an animated PNG: expected one picture; save the frame that you mean".into()
        );
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| match error {
        image::ImageError::Limits(_) => too_large(&error.to_string()),
        _ => damaged(&error.to_string()),
    })?;
    let rgb = to_rgb8(picture, bytes);
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    RgbImage::new(width, height, rgb.into_raw()).ok_or_else(|| "the picture is empty".to_owned())
}

fn too_large(what: &str) -> String {
    let most = MAX_BYTES >> 20;
    format!(
        "the picture is too large ({what}): expected at most {MAX_SIDE}×{MAX_SIDE} pixels and {most} MiB"
    )
}

fn damaged(what: &str) -> String {
    format!("the picture is damaged or cut short ({what}): make or download it again")
}

fn jpeg_message(fault: Fault) -> String {
    match fault {
        Fault::Damaged(what) => damaged(&what),
        Fault::TooLarge(width, height) => too_large(&format!("{width}×{height} pixels")),
        Fault::Kind(what) => format!(
            "it is a JPEG with {what}: expected 8 bits, Huffman codes, and one, three or four components; save it as PNG"
        ),
    }
}

/// Whether a PNG has an animation chunk before its pixels.
fn is_animated(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or(&[]);
    while let [a, b, c, d, kind @ ..] = rest {
        if kind.starts_with(b"acTL") {
            return true;
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind.starts_with(b"IDAT") {
            return false;
        }
        rest = rest.get(length.saturating_add(12)..).unwrap_or(&[]);
    }
    false
}

/// 8-bit RGB by Pillow's rules; see [`read`].
fn to_rgb8(picture: DynamicImage, bytes: &[u8]) -> image::RgbImage {
    // Depth and colour type of the PNG header: Pillow reads 16-bit greys as they are ("I;16").
    let grey16 = bytes.get(24..26) == Some(&[16, 0]);
    let upper = |v: u16| (v >> 8) as u8;
    let grey = |v: u16| if grey16 { v.min(255) as u8 } else { upper(v) };
    let (width, height) = (picture.width(), picture.height());
    let data: Vec<u8> = match picture {
        DynamicImage::ImageLuma16(p) => p.into_raw().iter().flat_map(|v| [grey(*v); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => {
            p.into_raw().chunks_exact(2).flat_map(|v| [grey(v[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(p) => p.into_raw().iter().map(|v| upper(*v)).collect(),
        DynamicImage::ImageRgba16(p) => {
            p.into_raw().chunks_exact(4).flat_map(|v| [v[0], v[1], v[2]].map(upper)).collect()
        }
        other => return other.into_rgb8(),
    };
    image::RgbImage::from_raw(width, height, data).unwrap_or_default()
}

/// Encodes a picture as PNG, with a text chunk `parameters` where given (the place where other
/// tools look for the prompt and the settings). The bytes depend on the arguments only.
pub fn encode_png(
    picture: &RgbImage,
    parameters: Option<&str>,
) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let (width, height) = (picture.width as u32, picture.height as u32);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(text) = parameters {
        let added = if text.chars().all(|c| (c as u32) < 256 && c != '\0') {
            encoder.add_text_chunk("parameters".to_owned(), text.to_owned())
        } else {
            encoder.add_itxt_chunk("parameters".to_owned(), text.replace('\0', ""))
        };
        added.map_err(|e| e.to_string())?;
    }
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(&picture.data).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Writes a PNG atomically; see [`encode_png`].
pub fn write_png(path: &Path, picture: &RgbImage, parameters: Option<&str>) -> Result<()> {
    let bytes = encode_png(picture, parameters)
        .map_err(|e| StoreError::bad(path, format!("the picture cannot be encoded: {e}")))?;
    atomic::write(path, &bytes)
}

/// The text chunk `parameters` of a PNG, if it has one.
pub fn read_parameters(path: &Path) -> Result<Option<String>> {
    let bytes = input::read(path, MAX_BYTES)?;
    let bad = |e: png::DecodingError| StoreError::bad(path, format!("it is not a whole PNG: {e}"));
    let reader = png::Decoder::new(Cursor::new(bytes)).read_info().map_err(bad)?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|c| c.keyword == "parameters");
    if let Some(chunk) = latin {
        return Ok(Some(chunk.text.clone()));
    }
    let utf8 = info.utf8_text.iter().find(|c| c.keyword == "parameters");
    Ok(utf8.and_then(|chunk| chunk.get_text().ok()))
}

/// Whether bytes are a PNG from its signature to its last chunk, every chunk with its checksum. Pixels are
/// not decoded.
pub(crate) fn is_whole_png_bytes(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n") else { return false };
    // Length, name, content, checksum of name and content (PNG specification, 5.3).
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let end = 4 + u32::from_be_bytes(*length) as usize;
        let (Some(chunk), Some(sum)) = (after.get(..end), after.get(end..end + 4)) else {
            return false;
        };
        if crc32fast::hash(chunk).to_be_bytes() != sum {
            return false;
        }
        rest = &after[end + 4..];
        if chunk.starts_with(b"IEND") {
            return rest.is_empty();
        }
    }
    false
}

/// Whether a file begins and ends as a PNG does, without decoding it: a cut or empty one does not.
pub fn is_whole_png(path: &Path) -> bool {
    /// The last chunk: no content, its name, its checksum (PNG specification, 11.2.5).
    const END: [u8; 12] = *b"\0\0\0\0IEND\xae\x42\x60\x82";
    let read = || -> std::io::Result<bool> {
        let mut file = std::fs::File::open(path)?;
        let (mut head, mut tail) = ([0; 8], [0; END.len()]);
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::End(-(END.len() as i64)))?;
        file.read_exact(&mut tail)?;
        Ok(head == *b"\x89PNG\r\n\x1a\n" && tail == END)
    };
    read().unwrap_or(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn picture() -> RgbImage {
        let data = (0..5 * 4 * 3).map(|i| (i * 37 % 256) as u8).collect();
        RgbImage::new(5, 4, data).unwrap()
    }

    #[test]
    fn pictures_and_their_text_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        for text in [None, Some("a cat\nSteps: 8, CFG scale: 4"), Some("eine Katze — 猫")] {
            write_png(&path, &picture(), text).unwrap();
            assert_eq!(read(&path).unwrap(), picture());
            assert_eq!(read_parameters(&path).unwrap().as_deref(), text);
        }
        let a = encode_png(&picture(), None).unwrap();
        assert_eq!(a, encode_png(&picture(), None).unwrap());
    }

    #[test]
    fn planes_round_trip() {
        let planes = picture().to_planes();
        assert_eq!(planes.len(), 60);
        assert_eq!(planes[1], f32::from(picture().data[3]) / 127.5 - 1.0);
        assert_eq!(RgbImage::from_planes(5, 4, &planes).unwrap(), picture());
        let odd = RgbImage::from_planes(1, 1, &[f32::NAN, f32::INFINITY, -7.0]).unwrap();
        assert_eq!(odd.data, [0, 255, 0]);
        assert!(RgbImage::from_planes(2, 1, &[0.0; 3]).is_none());
    }

    #[test]
    fn jpeg_is_read_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let rgb = image::RgbImage::from_pixel(16, 8, image::Rgb([200, 30, 30]));
        rgb.save_with_format(&path, ImageFormat::Jpeg).unwrap();
        let back = read(&path).unwrap();
        assert_eq!((back.width, back.height), (16, 8));
        assert!(back.data[0].abs_diff(200) < 8);
    }

    #[test]
    fn damaged_cut_and_foreign_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let whole = encode_png(&picture(), Some("x")).unwrap();
        for cut in 0..whole.len() - 12 {
            fs::write(&path, &whole[..cut]).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("a.png"), "{message}");
        }
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << bit;
                let _ = decode(&bytes); // must not panic
            }
        }
        fs::write(&path, "GIF89a").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("neither PNG nor JPEG"));
    }

    #[test]
    fn greys_of_16_bits_are_cut_and_colours_halved_as_pillow_does() {
        let png = |color, values: &[u16]| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(color);
            encoder.set_depth(png::BitDepth::Sixteen);
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
            encoder.write_header().unwrap().write_image_data(&data).unwrap();
            decode(&bytes).unwrap().data
        };
        use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};
        assert_eq!(png(Grayscale, &[200, 65535]), [200, 200, 200, 255, 255, 255]);
        assert_eq!(png(GrayscaleAlpha, &[385, 9, 65535, 9]), [1, 1, 1, 255, 255, 255]);
        assert_eq!(png(Rgb, &[255, 256, 511, 0, 65535, 32767]), [0, 1, 1, 0, 255, 127]);
        assert_eq!(png(Rgba, &[255, 256, 511, 7, 0, 65535, 32767, 7]), [0, 1, 1, 0, 255, 127]);
    }

    #[test]
    fn animations_and_other_formats_are_named() {
        let message = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert!(message(b"GIF89a..").contains("a GIF, which may be animated"));
        assert!(message(b"RIFF1234WEBPVP8 ").contains("a WebP"));
        assert!(message(b"").contains("empty"));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3]).unwrap();
        writer.write_image_data(&[4, 5, 6]).unwrap();
        writer.finish().unwrap();
        assert!(message(&bytes).contains("animated PNG"), "{}", message(&bytes));
    }

    #[test]
    fn huge_pictures_are_refused_before_memory_is_taken() {
        // A PNG header that claims 60000 × 60000 pixels.
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 60_000, 60_000);
        encoder.set_color(png::ColorType::Rgb);
        drop(encoder.write_header().unwrap());
        let message = decode(&bytes).unwrap_err();
        assert!(message.contains("8192"), "{message}");
    }
}
