//! Lossless documents: parse, edit one key, print; an unedited document prints as it was read.
