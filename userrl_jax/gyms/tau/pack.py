"""stub."""


def read():
  return ()


def read_folder(folder):
  return ()
