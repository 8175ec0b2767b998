"""The generator: its maps describe one and the same view, at any size, from the seed alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.machines import answers

from moevit.model.kinds import TASK_KINDS
from moevit.model.scenes import render as scenes
from moevit.model.scenes.layout import ROOM_INSTANCES, furnish
from moevit.model.scenes.raycast import Box, Cone, Cylinder, Room, Solid, Sphere, nearest, occluded
from moevit.model.scenes.render import CLASSES, Sample, scene
from moevit.model.scenes.truth import find_edges, find_orientation, find_salient

HEIGHT, WIDTH = 96, 192


def same(a: Sample, b: Sample) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(Sample)
    )


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 120, 165])
def test_orientation_of_a_line(angle: int) -> None:
    """A line through the middle, y down: its direction, and nothing beside it."""
    y, x = np.mgrid[-20:21, -20:21]
    a = np.radians(angle)
    line = np.abs(x * np.sin(a) - y * np.cos(a)) < 0.8
    found = find_orientation(line)
    inner = np.s_[6:-6, 6:-6]
    wanted = np.array([np.cos(2 * a), np.sin(2 * a)])
    cosine = (found[inner][line[inner]] @ wanted).clip(-1, 1)
    assert np.degrees(np.arccos(cosine)).mean() / 2 < 6
    assert not found[~line].any()
    np.testing.assert_allclose(np.linalg.norm(found[inner][line[inner]], axis=-1), 1, atol=1e-5)


def test_orientation_of_a_mirrored_scene() -> None:
    sample = scene("train", 5, 32, 64)
    turned = find_orientation(np.ascontiguousarray(sample.edges[:, ::-1]))
    again = TASK_KINDS["orientation"].mirrored(sample.orientation[:, ::-1])
    np.testing.assert_allclose(turned, again, atol=1e-6)
    assert 0.5 < sample.orientation.any(-1).sum() / sample.edges.sum() <= 1


@settings(max_examples=20)
@given(index=st.integers(0, 10_000), height=st.integers(8, 40), width=st.integers(8, 60))
def test_maps_have_their_types_and_ranges(index: int, height: int, width: int) -> None:
    sample = scene("train", index, height, width)
    size = (height, width)
    assert sample.image.shape == (*size, 3)
    assert sample.image.dtype == sample.segmentation.dtype == np.uint8
    assert sample.segmentation.shape == size
    assert sample.segmentation.max() < len(CLASSES)
    assert sample.depth.shape == size
    assert sample.depth.dtype == sample.normals.dtype == np.float32
    assert 0 < sample.depth.min()
    assert sample.depth.max() < 20
    assert sample.normals.shape == (*size, 3)
    np.testing.assert_allclose(np.linalg.norm(sample.normals, axis=-1), 1, atol=1e-4)
    assert sample.edges.dtype == sample.saliency.dtype == np.bool_


def test_a_scene_follows_from_its_seed() -> None:
    assert same(scene("train", 3), scene("train", 3))
    assert not same(scene("train", 3), scene("train", 4))
    assert not same(scene("train", 3), scene("validation", 3))


def _points(index: int) -> tuple[Sample, np.ndarray]:
    """A scene and its pixels' positions in camera coordinates, ``(H, W, 3)``."""
    sample = scene("test", index, HEIGHT, WIDTH, finer=1)
    seed = np.random.SeedSequence([scenes._ROOT, scenes.SPLITS.index("test"), index])
    layout = furnish(np.random.Generator(np.random.PCG64(seed)))
    focal = WIDTH / 2 / layout.camera.tangent
    x = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / focal
    y = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / focal
    rays = np.stack([*np.meshgrid(x, y), np.ones((HEIGHT, WIDTH))], axis=-1)
    return sample, rays * sample.depth[..., None]


@pytest.mark.parametrize("index", range(6))
def test_normals_are_those_of_the_depth(index: int) -> None:
    """Away from edges the cross product of neighbouring points is the normal, facing the camera."""
    sample, points = _points(index)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal *= -np.sign(np.sum(normal * points[1:-1, 1:-1], axis=-1, keepdims=True))
    cosine = np.sum(normal * sample.normals[1:-1, 1:-1], axis=-1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    smooth = ~sample.edges
    smooth = smooth[1:-1, 1:-1] & smooth[1:-1, 2:] & smooth[1:-1, :-2]
    smooth &= ~(sample.edges[2:, 1:-1] | sample.edges[:-2, 1:-1])
    assert smooth.mean() > 0.5
    assert np.median(angle[smooth]) < 0.1
    assert np.quantile(angle[smooth], 0.99) < 8  # small round objects bend between pixels


@pytest.mark.parametrize("index", range(6))
def test_normals_face_the_camera(index: int) -> None:
    sample, points = _points(index)
    assert (np.sum(points * sample.normals, axis=-1) < 1e-3).all()


@pytest.mark.parametrize("index", range(4))
def test_labels_change_only_at_edges(index: int) -> None:
    sample = scene("test", index, HEIGHT, WIDTH)
    labels, edges = sample.segmentation, sample.edges
    assert not ((labels[:, 1:] != labels[:, :-1]) & ~edges[:, 1:]).any()
    assert not ((labels[1:] != labels[:-1]) & ~edges[:-1]).any()


def test_all_classes_occur_and_colour_does_not_tell_them() -> None:
    drawn = [scene("train", index, 32, 64, finer=1) for index in range(60)]
    labels = np.concatenate([sample.segmentation.ravel() for sample in drawn])
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    colours = np.concatenate([sample.image.reshape(-1, 3) for sample in drawn]).astype(float)
    spread = colours.std(axis=0)
    for name in ("box", "sphere", "cylinder", "cone"):
        mean = colours[labels == CLASSES.index(name)].mean(axis=0)
        assert (np.abs(mean - colours.mean(axis=0)) < spread).all()


def test_the_room_is_never_salient_but_something_mostly_is() -> None:
    some = 0
    for index in range(20):
        sample = scene("train", index, 32, 64)
        some += bool(sample.saliency.any())
        assert not (sample.saliency & (sample.segmentation < ROOM_INSTANCES)).any()
    assert some >= 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("holdout", 0), "Split must be one of train, .*, not 'holdout'"),
        (("train", -1), "index must not be negative, not -1"),
        (("train", 0, 4, 64), "at least 8x8 pixels, not 4x64"),
    ],
)
def test_bad_requests_are_refused(arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene(*arguments)
    with pytest.raises(ValueError, match="grid must be at least 1, not 0"):
        scene("train", 0, finer=0)


SOLIDS: list[Solid] = [
    Box((0.2, 0.1, 3.0), (0.5, 0.3, 0.4), 0.7),
    Sphere((-0.3, 0.2, 2.5), 0.6),
    Cylinder((0.1, -0.2, 3.0), 0.4, 0.7),
    Cone((0.0, 0.9, 3.0), 0.7, 1.5),
]


def _inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Whether points ``(3, N)`` lie in a solid, from its definition."""
    if isinstance(solid, Box):
        local = solid._local((points - np.array(solid.centre)[:, None]).astype(np.float32))
        return np.all(np.abs(local) <= np.array(solid.half)[:, None], axis=0)
    if isinstance(solid, Sphere):
        return np.linalg.norm(points - np.array(solid.centre)[:, None], axis=0) <= solid.radius
    if isinstance(solid, Cylinder):
        x, y, z = points - np.array(solid.centre)[:, None]
        return (np.hypot(x, z) <= solid.radius) & (np.abs(y) <= solid.half_height)
    assert isinstance(solid, Cone)
    x, y, z = points - np.array(solid.apex)[:, None]
    return (y <= 0) & (y >= -solid.height) & (np.hypot(x, z) <= -y * solid.radius / solid.height)


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: type(solid).__name__)
@pytest.mark.parametrize("origin", [(0, 0, 0), (0.4, 2.5, 0.5), (-0.5, -2.0, 1.0)])
def test_rays_stop_where_a_march_enters_the_solid(
    solid: Solid, origin: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(0)
    start = np.array(origin, np.float32)
    target = solid.bound[0][:, None] + rng.normal(0, 0.4, (3, 300))
    directions = (target - start[:, None]).astype(np.float32)
    found, index = nearest([solid], start, directions, np.full(300, 9.0, np.float32))
    steps = np.linspace(0.01, 3, 3000)
    for ray in range(300):
        march = _inside(solid, start[:, None] + directions[:, ray : ray + 1] * steps)
        if index[ray] >= 0:
            before = steps < found[ray] - 2e-3
            assert not march[before].any()
            just_in = start + directions[:, ray] * (found[ray] + 1e-4)
            just_out = start + directions[:, ray] * (found[ray] - 1e-4)
            assert not _inside(solid, just_out[:, None])[0]
            assert _inside(solid, just_in[:, None])[0] or march.sum() < 5
        else:
            assert march.sum() < 5  # at most a graze
    hit = index >= 0
    assert 20 < hit.sum() < 300
    points = start[:, None] + directions * found
    normals = solid.normal(points[:, hit], directions[:, hit])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-4)
    assert (np.sum(normals * directions[:, hit], axis=0) < 1e-3).all()
    assert not _inside(solid, points[:, hit] + 5e-3 * normals).any()


def test_the_room_is_left_through_the_nearest_wall() -> None:
    room = Room(4.0, 3.0, 6.0)
    directions = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [-1, 0, 0.1]], np.float32).T
    distance, normal = room.cast(np.array([0.5, 1.0, 2.0], np.float32), directions)
    np.testing.assert_allclose(distance, [1.5, 1.0, 4.0, 2.5], rtol=1e-6)
    np.testing.assert_array_equal(normal.T, [[-1, 0, 0], [0, 1, 0], [0, 0, -1], [1, 0, 0]])


def test_shadows_fall_behind_solids_only() -> None:
    light = np.zeros(3, np.float32)
    ball: list[Solid] = [Sphere((0, 0, 2), 0.5)]
    points = np.array([[0, 0, 1], [0, 0, 1.5], [0, 0, 4], [2, 0, 4]], np.float32).T
    assert occluded(ball, light, points).tolist() == [False, False, True, False]


def test_edges_of_a_crease_a_jump_and_a_plane() -> None:
    depth = np.full((3, 6), 2.0, np.float32)
    normals = np.zeros((3, 6, 3), np.float32)
    normals[..., 2] = -1
    rays = np.zeros((3, 6, 3), np.float32)
    rays[..., 2] = 1
    instances = np.zeros((3, 6), np.int16)
    assert not find_edges(depth, normals, rays, instances).any()
    jump = depth.copy()
    jump[:, 3:] = 2.2
    assert find_edges(jump, normals, rays, instances)[1].tolist() == [0, 0, 1, 1, 0, 0]
    crease = normals.copy()
    crease[:, 5] = [1, 0, 0]
    assert find_edges(depth, crease, rays, instances)[1, 4:].tolist() == [1, 1]
    instances[:, :1] = 1
    assert find_edges(depth, normals, rays, instances)[1].tolist() == [1, 1, 0, 0, 0, 0]


def test_the_bright_central_object_is_salient() -> None:
    image = np.full((20, 40, 3), 60, np.uint8)
    instances = np.zeros((20, 40), np.int16)
    instances[8:12, 18:22] = 1
    instances[0:4, 0:4] = 2
    image[instances == 1] = 250
    salient = find_salient(image, instances, 1, [0, 5, 6])
    assert np.array_equal(salient, instances == 1)
    assert not find_salient(image, np.zeros_like(instances), 1, [0]).any()


_RENDER = """
import hashlib
from moevit.model.scenes.render import scene
found = hashlib.sha256()
for number in range(6):
    drawn = scene("calibration", number, 48, 96)
    for part in (drawn.image, drawn.depth, drawn.normals, drawn.edges, drawn.saliency):
        found.update(part.tobytes())
print(found.hexdigest())
"""


def test_the_same_scenes_on_every_machine() -> None:
    digests = answers(_RENDER)
    assert len(digests[0]) == 64 and len(set(digests)) == 1, digests
