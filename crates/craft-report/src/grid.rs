//! Picture grids: RGB pictures of one size on a white sheet.

use crate::ReportError;

/// Lays out RGB pictures of `w` × `h` pixels on a white sheet, row by row, `columns` a row, `gap` pixels between and
/// around them. Returns the sheet's RGB bytes; its size is `(gap + columns·(w+gap), gap + rows·(h+gap))` where
/// `columns` is at most the number of pictures. A picture whose length is not `w·h·3` leaves its cell white
/// (see [`picture_grid_png`] for a checked version).
pub fn picture_grid(images: &[&[u8]], w: usize, h: usize, columns: usize, gap: usize) -> Vec<u8> {
    let (columns, sheet_w, sheet_h) = sheet(images.len(), w, h, columns, gap);
    let mut out = vec![255u8; sheet_w * sheet_h * 3];
    for (index, picture) in images.iter().enumerate().filter(|(_, p)| p.len() == w * h * 3) {
        let left = gap + (index % columns) * (w + gap);
        let top = gap + (index / columns) * (h + gap);
        for (y, row) in picture.chunks_exact((w * 3).max(1)).enumerate() {
            let start = ((top + y) * sheet_w + left) * 3;
            out[start..start + w * 3].copy_from_slice(row);
        }
    }
    out
}

/// The same as [`picture_grid`], encoded as PNG.
///
/// # Errors
/// [`ReportError::PictureSize`] when a picture is not `w·h·3` bytes long, [`ReportError::Png`] when the sheet would
/// be empty or cannot be encoded.
pub fn picture_grid_png(
    images: &[&[u8]],
    w: usize,
    h: usize,
    columns: usize,
    gap: usize,
) -> Result<Vec<u8>, ReportError> {
    for (index, picture) in images.iter().enumerate() {
        if picture.len() != w * h * 3 {
            return Err(ReportError::PictureSize {
                index,
                expected: w * h * 3,
                actual: picture.len(),
            });
        }
    }
    let (_, sheet_w, sheet_h) = sheet(images.len(), w, h, columns, gap);
    encode_png(&picture_grid(images, w, h, columns, gap), sheet_w, sheet_h)
}

/// Encodes `w` × `h` RGB bytes as PNG.
///
/// # Errors
/// [`ReportError::Png`] when `rgb` is not `w·h·3` bytes long, or the picture is empty.
pub fn encode_png(rgb: &[u8], w: usize, h: usize) -> Result<Vec<u8>, ReportError> {
    let fail = |message: String| ReportError::Png { width: w, height: h, message };
    if w == 0 || h == 0 || rgb.len() != w * h * 3 {
        return Err(fail(format!(
            "expected {} bytes and a side of at least 1 pixel, got {} bytes",
            w * h * 3,
            rgb.len()
        )));
    }
    let (width, height) = match (u32::try_from(w), u32::try_from(h)) {
        (Ok(width), Ok(height)) => (width, height),
        _ => return Err(fail("a side has more than 2^32 pixels".to_owned())),
    };
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    image::ImageEncoder::write_image(encoder, rgb, width, height, image::ExtendedColorType::Rgb8)
        .map_err(|e| fail(e.to_string()))?;
    Ok(out)
}

fn sheet(count: usize, w: usize, h: usize, columns: usize, gap: usize) -> (usize, usize, usize) {
    let columns = columns.max(1).min(count.max(1));
    let rows = count.div_ceil(columns);
    if count == 0 {
        (columns, 0, 0)
    } else {
        (columns, gap + columns * (w + gap), gap + rows * (h + gap))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pictures_land_in_their_cells() {
        let (a, b, c) = (vec![1u8; 12], vec![2u8; 12], vec![3u8; 12]);
        let out = picture_grid(&[&a, &b, &c], 2, 2, 2, 1);
        let width = 7;
        assert_eq!(out.len(), width * 7 * 3);
        let at = |x: usize, y: usize| out[(y * width + x) * 3];
        assert_eq!(
            [at(0, 0), at(1, 1), at(2, 2), at(3, 1), at(4, 1), at(1, 4), at(4, 4)],
            [255, 1, 1, 255, 2, 3, 255]
        );
        let png = picture_grid_png(&[&a, &b, &c], 2, 2, 2, 1).unwrap();
        let back = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(back.into_raw(), out);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let short = vec![0u8; 3];
        let message = picture_grid_png(&[&short], 2, 2, 1, 0).unwrap_err().to_string();
        assert!(message.contains("picture 0 has 3 bytes; expected 12"), "{message}");
        assert!(picture_grid(&[], 2, 2, 3, 1).is_empty());
        assert!(picture_grid_png(&[], 2, 2, 3, 1).is_err());
    }
}
