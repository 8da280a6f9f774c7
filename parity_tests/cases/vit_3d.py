from parity_tests.case import Case, Refused, video

SMALL = dict(
    image_size=(12, 20),
    image_patch_size=(3, 4),
    frames=6,
    frame_patch_size=2,
    num_classes=7,
    dim=22,
    depth=2,
    heads=3,
    dim_head=6,
    mlp_dim=28,
)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=video(2, 6, 12, 20, 3), parameters=9_315),
    Case(
        name='mean_grey',
        kwargs={**SMALL, 'pool': 'mean', 'channels': 1, 'depth': 1},
        inputs=video(2, 6, 12, 20, 1),
        parameters=5_187,
        train=True,
    ),
    Case(name='fewer_frames', kwargs={**SMALL, 'depth': 1}, inputs=video(2, 4, 12, 20, 3), parameters=6_339),
    Case(
        name='square',
        kwargs={**SMALL, 'image_size': 12, 'image_patch_size': 4, 'frame_patch_size': 1, 'frames': 3, 'depth': 1},
        inputs=video(2, 3, 12, 12, 3),
        parameters=5_037,
    ),
]

REFUSED = [
    Refused(
        says='frames=7 is not divisible by frame_patch_size=2',
        kwargs={**SMALL, 'frames': 7},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r'image_size=\(12, 21\) is not divisible by image_patch_size=\(3, 4\)',
        kwargs={**SMALL, 'image_size': (12, 21)},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(
        says=r"pool='max' is unknown: use one of 'cls', 'mean'",
        kwargs={**SMALL, 'pool': 'max'},
        inputs=video(2, 6, 12, 20, 3),
    ),
    Refused(says=r'layout \[b t h w c\], got shape \(6, 12, 20, 3\)', kwargs=SMALL, inputs=video(6, 12, 20, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 6, 12, 20\).*unlike in PyTorch',
        kwargs=SMALL,
        inputs=video(2, 3, 6, 12, 20),
    ),
    Refused(
        says=r'the frames, height and width of the videos=\(5, 12, 20\) is not divisible by patch_size=\(2, 3, 4\)',
        kwargs=SMALL,
        inputs=video(2, 5, 12, 20, 3),
    ),
    Refused(
        says=r'have 80 patches, frames=6 with image_size=\(12, 20\) has positions for 60',
        kwargs=SMALL,
        inputs=video(2, 8, 12, 20, 3),
    ),
]
