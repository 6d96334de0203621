//! Model folders and single files of other programs and older versions.
