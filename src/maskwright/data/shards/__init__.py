"""Sets of images in tar files of about a thousand examples, each with an index: for many images, and object stores."""
