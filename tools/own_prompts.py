"""Writes recipes/prompts/train.txt and eval.txt: plain prompts of our own, put together from the word lists below.

    python tools/own_prompts.py

No names of persons, brands or artists. The two lists share no prompt. The same lists come out every time.
"""

import itertools
import random
from pathlib import Path

TRAIN, EVAL = 320, 80
SEED = 20261130

COLOURS = "red blue green yellow white black orange purple".split()
ANIMALS = {
    "a grey cat": ["asleep on a windowsill", "looking out of a rainy window", "sitting on a pile of books"],
    "a brown dog": ["running along a beach", "waiting at a garden gate", "carrying a stick through snow"],
    "a red fox": ["crossing a frozen field", "hiding in tall grass", "drinking from a stream"],
    "a barn owl": ["on a wooden post at dusk", "flying over a meadow", "in the window of an old tower"],
    "a brown bear": ["fishing in a river", "walking through a birch wood", "with two cubs on a hill"],
    "a white horse": ["galloping through shallow water", "standing in morning fog", "under an apple tree"],
    "an elephant": ["bathing in a muddy pool", "walking under a wide evening sky", "with dust on its back"],
    "a green frog": ["on a lily pad", "behind a wet leaf", "on a mossy stone"],
    "a hedgehog": ["among autumn leaves", "next to a fallen apple", "on a garden path at night"],
    "a sea turtle": ["swimming over coral", "crawling up a sandy beach", "seen from below in clear water"],
    "a robin": ["on the handle of a spade", "in a snowy hedge", "on the edge of a stone bowl"],
    "a goat": ["on a steep rock", "looking over a wooden fence", "in front of a stone hut"],
}
THINGS = "cup,chair,book,bicycle,umbrella,lamp,suitcase,clock,kettle,bowl,candle,box,vase,pillow,bench,boat".split(",")
RELATIONS = ["to the left of", "to the right of", "on top of", "in front of", "next to", "underneath"]
COUNTED = [
    "{n} {c} balloons above a wheat field", "{n} {c} apples on a wooden table", "{n} {c} boats on a calm lake",
    "{n} {c} umbrellas in a wet street", "{n} {c} birds on a wire", "{n} {c} candles on a window ledge",
    "{n} {c} chairs around a small table", "{n} {c} books on a shelf", "{n} {c} tulips in a glass vase",
]
NUMBERS = ["two", "three", "four", "five"]
LANDS = [
    "a narrow valley with a winding river", "a row of poplars along a canal", "a rocky coast with a lighthouse",
    "a desert with long dunes", "a mountain lake with clear water", "a field of lavender", "a pine forest with a path",
    "rolling hills with stone walls", "a waterfall in a green gorge", "a wide beach with driftwood",
    "a frozen marsh with reeds", "terraced rice fields on a slope",
]
LIGHTS = [
    "at sunrise", "under a stormy sky", "in thick fog", "in soft evening light", "after the first snow",
    "under a full moon", "in bright midday sun", "just after rain",
]
FOODS = [
    "a bowl of tomato soup with basil", "a stack of pancakes with blueberries", "a loaf of dark bread cut open",
    "a plate of spaghetti with mushrooms", "a slice of lemon cake", "a basket of fresh figs",
    "a pot of steaming dumplings", "a salad with radishes and herbs", "a jar of honey with a wooden spoon",
    "a baked apple with cinnamon",
]
SERVED = [
    "on a blue plate", "on a rough wooden board", "seen from above", "beside a folded napkin", "in window light",
    "on a picnic blanket",
]
ROOMS = [
    "a small kitchen with copper pans", "a reading room with tall shelves", "a bedroom under a sloping roof",
    "a workshop full of tools", "a greenhouse full of ferns", "a bathroom with green tiles",
    "a hallway with a long carpet", "an attic with old trunks", "a cafe with round tables", "an empty classroom",
]
HOURS = [
    "in the early morning", "at night with one lamp on", "with rain against the windows", "with sunlight on the floor",
    "drawn in pencil", "with an open door",
]
STREETS = [
    "a cobbled lane between brick houses", "a market square with striped awnings", "a stone bridge over a canal",
    "a red tram on a steep street", "a wooden pier with fishing boats", "a tall glass tower among low houses",
    "a village church with a slate roof", "a railway station with an iron roof", "a row of colourful beach huts",
    "an old windmill beside a ditch", "a castle on a green hill", "a bus stop at the edge of a forest",
]
WORKERS = {
    "a baker": ["pulling bread out of an oven", "dusting a table with flour"],
    "a fisherman": ["mending a net on a quay", "rowing a small boat at dawn"],
    "a gardener": ["watering rows of lettuce", "pushing a barrow of leaves"],
    "a potter": ["shaping a tall jar", "painting a bowl with blue lines"],
    "a child": ["flying a kite on a hill", "jumping into a puddle", "building a tower of blocks"],
    "an old woman": ["feeding pigeons in a park", "knitting beside a stove"],
    "a cyclist": ["riding through a tunnel of trees", "carrying a bicycle over a stream"],
    "a carpenter": ["planing a long plank", "measuring a door frame"],
    "a violinist": ["playing on a balcony", "tuning an instrument in an empty hall"],
    "a beekeeper": ["lifting a frame out of a hive", "walking between apple trees"],
}
MEDIA = [
    "a watercolour of", "an ink drawing of", "a woodcut of", "a pastel drawing of", "a paper collage of",
    "a mosaic of", "an oil painting of", "a black and white photo of", "a stained glass window of", "a pixel art picture of",
]
SCENES = [
    "a sailing boat in a bay", "a sleeping village under stars", "a pair of old shoes", "a heron in a pond",
    "a lemon tree in a pot", "a steam train on a viaduct", "a market stall with fruit", "a snowy cabin",
    "a jug and three pears", "a fox in a wood", "a ferris wheel at night", "a cliff with sea birds",
]
MATERIALS = ["glass", "wood", "paper", "wool", "ice", "copper", "clay", "moss"]
MADE = ["a teapot", "a small dragon", "a bicycle", "a chess knight", "a pair of boots", "a guitar", "a snail", "a castle"]
VEHICLES = [
    "a rusty pickup truck", "a yellow submarine", "a hot air balloon", "a wooden rowing boat", "a green tractor",
    "a cargo ship", "a small propeller plane", "a cable car", "a camper van", "a sled",
]
WHERE = [
    "in a field of sunflowers", "above the clouds", "at the edge of a lake", "in a snowstorm", "in front of red cliffs",
    "on an empty road at dusk",
]


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def groups() -> list[list[str]]:
    pairs = itertools.product
    things = [
        f"{article(c + ' ' + a)} {r} {article(d + ' ' + b)}"
        for c, a, r, d, b in pairs(COLOURS, THINGS, RELATIONS, COLOURS, THINGS)
        if a != b and c != d
    ]
    return [
        [f"{who} {what}" for who, all in ANIMALS.items() for what in all],
        things,
        [text.format(n=n, c=c) for text, n, c in pairs(COUNTED, NUMBERS, COLOURS)],
        [f"{land} {light}" for land, light in pairs(LANDS, LIGHTS)],
        [f"{food} {how}" for food, how in pairs(FOODS, SERVED)],
        [f"{room} {hour}" for room, hour in pairs(ROOMS, HOURS)],
        [f"{street} {light}" for street, light in pairs(STREETS, LIGHTS)],
        [f"{who} {what}" for who, all in WORKERS.items() for what in all],
        [f"{medium} {scene}" for medium, scene in pairs(MEDIA, SCENES)],
        [f"{thing} made of {material}" for thing, material in pairs(MADE, MATERIALS)],
        [f"{what} {where}" for what, where in pairs(VEHICLES, WHERE)],
    ]


def main() -> None:
    dice = random.Random(SEED)
    chosen, all_groups = [], groups()
    for group in all_groups:
        dice.shuffle(group)
    # In turns, so that each kind has its share, and small kinds are used up.
    for turn in itertools.count():
        found = [group[turn] for group in all_groups if turn < len(group)]
        chosen += found
        if len(chosen) >= TRAIN + EVAL:
            break
    chosen = chosen[: TRAIN + EVAL]
    assert len(set(chosen)) == TRAIN + EVAL
    dice.shuffle(chosen)
    folder = Path(__file__).resolve().parent.parent / "recipes" / "prompts"
    folder.mkdir(exist_ok=True)
    for name, what, part in [("train", "train on", chosen[EVAL:]), ("eval", "evaluate on", chosen[:EVAL])]:
        head = f"# Prompts to {what}, written for this project by tools/own_prompts.py; the other list has none of them.\n"
        (folder / f"{name}.txt").write_text(head + "".join(text + "\n" for text in part))


if __name__ == "__main__":
    main()
