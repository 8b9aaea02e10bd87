"""Makes a bucket on the S3 server that the environment names, where there is none. Usage: make_bucket.py NAME."""

import sys

import s3fs


def main(name: str) -> None:
    """One that is there stays as it is."""
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if files.exists(name):
        sys.stdout.write(f"bucket {name} is there\n")
        return
    files.mkdir(name)
    sys.stdout.write(f"bucket {name} was made\n")


if __name__ == "__main__":
    main(sys.argv[1])
