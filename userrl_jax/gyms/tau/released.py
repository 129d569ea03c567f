"""stub."""


def read_folder(folder):
  return ()
