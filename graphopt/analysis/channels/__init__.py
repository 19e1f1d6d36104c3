"""Channel dependencies: which slots of which dims live and die together, and which of them can be removed.

A *slot* is an index of a dim of a value. Slots that live or die together share *atoms*; a *channel* is a removable atom
with all the slots that hang on it, and a *group* holds the channels that compete with one another.
"""

from graphopt.analysis.channels.analysis import ChannelAnalysis
from graphopt.analysis.channels.axes import State
from graphopt.analysis.channels.model import FrozenDim, Group, GroupAxis, Member, Need
from graphopt.analysis.channels.removal import Removal
from graphopt.analysis.channels.tracker import Role

__all__ = [
    "ChannelAnalysis",
    "FrozenDim",
    "Group",
    "GroupAxis",
    "Member",
    "Need",
    "Removal",
    "Role",
    "State",
]
