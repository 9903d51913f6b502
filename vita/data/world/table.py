"""The ground truth of the built-in world as one table: a line for every thing.

A line reads `name | property | value | value ...`; the values stand in the order of the kind's relations, whose
wordings are in `relations.py`. A name after `~` takes no article ("~rain": "Rain is a wet kind of weather.").
To add a thing, add a line. A property belongs to one thing of its kind, so that a definition names its thing.
"""

from __future__ import annotations

from vita.data.world.things import kind, things_of

KINDS = (
    kind(
        "mammal",
        "home food colour part deed active",
        rows="""
    cat | furry | in houses | mice and fish | grey | soft paws | sleeps in the sun | at night
    dog | loyal | in the yard | meat and bones | brown | a wet nose | guards the house | all day
    horse | fast | in a stable | hay and oats | brown | a long mane | pulls the cart | in the morning
    cow | calm | on the farm | fresh grass | black and white | wide horns | gives milk | all day
    pig | muddy | on the farm | roots and corn | pink | a round snout | rolls on the ground | in the morning
    sheep | woolly | on the hill | grass and herbs | white | a thick coat | follows the flock | all day
    goat | stubborn | in the mountains | leaves and herbs | white | curved horns | climbs over rocks | in the morning
    mouse | tiny | under the floor | seeds and cheese | grey | round ears | hides in small holes | at night
    rabbit | soft | under the ground | grass and carrots | brown | long ears | jumps over the field | in the evening
    fox | sly | in the forest | mice and birds | red | a bushy tail | steals hens | in the evening
    wolf | wild | in the forest | deer and sheep | grey | sharp teeth | howls at the moon | at night
    bear | strong | in a cave | honey and fish | brown | big paws | sleeps all winter | in summer
    deer | shy | in the forest | leaves and grass | brown | thin legs | runs from danger | in the evening
    lion | proud | on the dry plain | fresh meat | yellow | a thick mane | rests in the shade | at night
    tiger | striped | in the jungle | deer and pigs | orange | strong jaws | swims in rivers | at night
    camel | humped | in the desert | dry plants | light brown | long legs | walks through the sand | in the morning
    monkey | clever | in the jungle | fruit and nuts | brown | a long tail | swings from tree to tree | all day
    whale | huge | in the sea | small fish | dark blue | a broad tail | sings under water | all day
    seal | smooth | on cold beaches | fish and crabs | grey | short ears | rests on the ice | in the morning
    squirrel | quick | in a hollow tree | nuts and seeds | red | a bushy tail | hides food for winter | in the morning
    hedgehog | prickly | under the bushes | worms and snails | brown | sharp spines | rolls into a ball | at night
    bat | flying | in a cave | moths and flies | black | thin wings | hangs upside down | at night
    mole | blind | under the ground | worms | black | strong claws | digs long tunnels | all day
    otter | playful | by the river | fish and crabs | brown | a thick tail | swims on its back | in the evening
    donkey | patient | on the farm | hay and grass | grey | long ears | carries heavy sacks | all day
    """,
    ),
    kind(
        "bird",
        "home food colour part deed active",
        rows="""
    owl | wise | in old barns | mice | brown | big round eyes | hunts without a sound | at night
    eagle | mighty | in the mountains | rabbits and fish | brown | sharp claws | circles in the sky | all day
    duck | noisy | on the pond | plants and snails | green and brown | wide feet | swims across the pond | all day
    goose | angry | on the farm | grass and corn | white | a long neck | chases strangers | all day
    hen | useful | in the yard | corn and seeds | brown | a red comb | lays eggs | in the morning
    swan | graceful | on the lake | water plants | white | a long neck | glides over the water | in the morning
    crow | clever | in the fields | seeds and worms | black | a strong beak | steals shiny things | all day
    robin | cheerful | in the garden | worms and berries | brown | a red breast | sings in winter | in the morning
    sparrow | plain | under the roof | seeds and crumbs | brown | short wings | bathes in the dust | all day
    parrot | talking | in the jungle | fruit and nuts | green | a curved beak | repeats words | in the morning
    penguin | swimming | on the ice | fish | black and white | short wings | dives into cold water | all day
    pigeon | plump | on the square | crumbs and corn | grey | a small head | carries letters | all day
    heron | patient | by the river | fish and frogs | grey | long thin legs | stands still in the water | in the evening
    stork | tall | on the roof | frogs and mice | white | a long beak | flies south in autumn | in summer
    peacock | colourful | in the park | seeds and worms | blue and green | a wide tail | shows its tail | in the morning
    turkey | fat | on the farm | corn and nuts | brown | a bare neck | runs across the yard | all day
    gull | greedy | on the beach | fish and crabs | white and grey | a yellow beak | follows the boats | all day
    hawk | swift | in the forest | mice and birds | brown | sharp eyes | dives from the sky | in the morning
    wren | tiny | under the bushes | flies and worms | brown | a short tail | builds a round nest | in the morning
    """,
    ),
    kind(
        "fish",
        "home food colour part deed active",
        plural="fish",
        rows="""
    shark | fierce | in warm seas | fish and seals | grey | many sharp teeth | hunts alone | at night
    salmon | leaping | in cold rivers | flies and shrimps | pink | a strong tail | swims up the river | in autumn
    trout | spotted | in cold rivers | flies and worms | brown | a smooth skin | hides under stones | in the morning
    eel | slippery | in muddy rivers | snails and worms | black | a long thin body | travels far to the sea | at night
    carp | lazy | in ponds | plants and snails | yellow | large scales | digs in the mud | in summer
    herring | shiny | in cold seas | tiny shrimps | dark blue | small scales | swims in large groups | in the evening
    cod | pale | in cold seas | crabs and worms | light brown | a small beard | lays many eggs | in winter
    tuna | fast | in warm seas | small fish | dark blue | a strong body | crosses the sea | all day
    pike | hungry | in lakes | frogs and fish | green | long jaws | waits between the plants | in the morning
    ray | flat | in warm seas | crabs and snails | grey | a thin tail | glides like a bird | at night
    perch | striped | in lakes | worms and flies | green | sharp spines | chases small fish | all day
    """,
    ),
    kind(
        "insect",
        "home food colour part deed active",
        rows="""
    bee | buzzing | in a hive | the juice of flowers | yellow and black | a sharp sting | makes honey | in summer
    ant | strong | under stones | seeds and crumbs | black | six thin legs | carries heavy leaves | all day
    wasp | angry | in a paper nest | fruit and flies | yellow and black | a thin waist | stings people | in summer
    fly | annoying | in kitchens | sugar and crumbs | black | clear wings | lands on the food | all day
    moth | dusty | in dark cupboards | wool | light brown | soft wings | circles round the lamp | at night
    beetle | shiny | under old wood | leaves and wood | green | hard wings | crawls over the leaves | in the evening
    cricket | singing | in the fields | leaves and grass | brown | strong legs | makes loud music | in the evening
    flea | jumping | on dogs and cats | blood | brown | a flat body | bites people and dogs | in summer
    gnat | tiny | by the river | blood | grey | thin wings | dances over the water | in the evening
    locust | hungry | in warm fields | corn and leaves | green | strong wings | flies in large groups | in summer
    hornet | fierce | in a hollow tree | flies and bees | yellow and brown | strong jaws | guards its nest | in summer
    """,
    ),
    kind(
        "tree",
        "grows part best use guests needs",
        rows="""
    oak | mighty | in old forests | a thick trunk | in autumn | ships and doors | squirrels | deep soil
    pine | evergreen | on sandy hills | long needles | in winter | roofs and masts | squirrels | dry soil
    birch | pale | in the north | thin white bark | in spring | brooms | small birds | much light
    willow | drooping | by the river | long thin branches | in spring | baskets | bees | wet soil
    maple | colourful | in parks | pointed leaves | in autumn | floors and violins | insects | rich soil
    palm | tall | on warm beaches | very long leaves | in summer | roofs and mats | parrots | heat and sun
    elm | shady | along old roads | rough leaves | in summer | wheels and boats | crows | deep soil
    beech | smooth | in cool forests | grey bark | in autumn | chairs and toys | mice and birds | wet soil
    ash | tough | in valleys | black buds | in summer | handles | small birds | rich soil
    cedar | fragrant | in the mountains | broad branches | in winter | chests | owls | much sun
    fir | pointed | in the mountains | short needles | in winter | ladders | crows and owls | cool air
    poplar | slender | along old roads | round leaves | in spring | boxes and paper | insects | wet soil
    yew | poisonous | beside old churches | red berries | in autumn | bows | small birds | some shade
    """,
    ),
    kind(
        "flower",
        "grows colour blooms guests part use",
        rows="""
    rose | thorny | in gardens | red | in summer | bees | many soft petals | perfume
    tulip | upright | in parks | red and yellow | in spring | bees | a smooth stem | vases
    daisy | simple | in the grass | white | in summer | flies and bees | a yellow middle | children's games
    lily | elegant | in gardens | white | in summer | moths | long petals | weddings
    poppy | fragile | in the fields | red | in summer | bees | thin petals | oil
    violet | tiny | under the bushes | purple | in spring | ants and bees | round leaves | sweets and perfume
    orchid | rare | in the jungle | pink | in winter | moths | a strange shape | gifts
    thistle | prickly | on dry hills | purple | in autumn | moths and bees | sharp leaves | medicine
    clover | lucky | in the fields | white | in summer | bees | three small leaves | hay
    snowdrop | early | in gardens | white | in winter | the first bees | a thin stem | small vases
    sunflower | tall | in the fields | yellow | in summer | bees and birds | a thick stem | oil and seeds
    iris | proud | by the river | blue | in spring | large bees | pointed leaves | vases and gifts
    """,
    ),
    kind(
        "fruit",
        "grows colour taste use part ripe",
        rows="""
    apple | crisp | on trees | red and green | sweet and fresh | pies and juice | small brown seeds | in autumn
    pear | juicy | on trees | green | sweet | cakes and juice | a thin neck | in autumn
    plum | smooth | on trees | purple | sweet and sour | jam and cakes | a flat stone | in autumn
    cherry | small | on trees | dark red | sweet | cakes and jam | a round stone | in summer
    lemon | sour | in warm gardens | yellow | sharp | drinks and cakes | a thick skin | in winter
    peach | fuzzy | in warm gardens | orange and pink | sweet | pies and jam | a rough stone | in summer
    grape | round | on warm hills | green or blue | sweet | wine and juice | a thin skin | in autumn
    melon | watery | on the ground | green | fresh and mild | summer meals | many flat seeds | in summer
    fig | soft | on trees | purple | very sweet | jam and cakes | many tiny seeds | in autumn
    mango | fragrant | in warm lands | orange | sweet and rich | juice and sauce | a large stone | in summer
    banana | curved | in warm lands | yellow | sweet and mild | cakes | a soft skin | all year
    olive | oily | on dry hills | green or black | bitter | oil and salad | a hard stone | in autumn
    quince | hard | on trees | yellow | sour | jam | many hard seeds | in autumn
    """,
    ),
    kind(
        "vegetable",
        "grows colour taste use part ripe",
        rows="""
    carrot | crunchy | under the ground | orange | sweet | soup and salad | green leaves | in summer
    onion | layered | under the ground | light brown | sharp | soup and stew | a thin dry skin | in summer
    leek | mild | in kitchen gardens | white and green | mild and fresh | soup and pies | long leaves | in winter
    bean | climbing | on tall poles | green | fresh and mild | stew and salad | flat seeds | in summer
    pea | round | on thin branches | green | sweet | soup | a small green coat | in summer
    cabbage | leafy | in the fields | light green | mild | soup and stew | a thick stem | in autumn
    pumpkin | huge | on the ground | orange | mild and sweet | soup and lanterns | many flat seeds | in autumn
    radish | hot | under the ground | red | sharp | salad | a white middle | in spring
    turnip | cheap | under the ground | white | bitter | stew | rough leaves | in winter
    beet | dark | under the ground | dark red | sweet | salad and sugar | a long root | in autumn
    ~garlic | smelly | under the ground | white | very sharp | sauce and meat | a thin dry skin | in summer
    potato | filling | under the ground | light brown | mild | many warm meals | a rough skin | in autumn
    ~spinach | healthy | in kitchen gardens | dark green | bitter | soup and pies | soft leaves | in spring
    ~lettuce | fresh | in kitchen gardens | light green | fresh | salad | broad soft leaves | in summer
    """,
    ),
    kind(
        "food",
        "material meal partner maker kept eaten",
        rows="""
    ~bread | baked | flour and water | at breakfast | butter | the baker | in a basket | with the fingers
    ~soup | hot | water and herbs | at noon | bread | the cook | in a large pot | with a spoon
    cake | sweet | flour and eggs | at birthdays | tea | the baker | on a plate | with a fork
    pie | round | flour and apples | on Sundays | cream | the cook | on a shelf | with a fork
    ~cheese | salty | milk and salt | in the evening | bread | the farmer | in the cellar | with a knife
    ~butter | creamy | fresh cream | at breakfast | bread | the farmer | in the cellar | with a knife
    ~honey | sticky | the juice of flowers | at breakfast | bread | the bee | in a jar | with a spoon
    ~jam | fruity | fruit and sugar | at breakfast | bread | the cook | in a jar | with a spoon
    stew | thick | meat and roots | in the evening | potatoes | the cook | in a large pot | with a spoon
    pancake | flat | flour and milk | on Sundays | sugar | the cook | on a plate | with the fingers
    ~porridge | warm | oats and milk | at breakfast | honey | the cook | in a bowl | with a spoon
    sausage | smoked | meat and herbs | at noon | potatoes | the butcher | on a hook | with a fork
    ~salad | fresh | leaves and oil | at noon | bread | the cook | in a bowl | with a fork
    biscuit | crunchy | flour and butter | in the afternoon | tea | the baker | in a box | with the fingers
    ~ham | pink | salted meat | in the evening | cheese | the butcher | on a hook | with bread
    omelette | yellow | eggs and butter | at noon | salad | the cook | on a plate | with a fork
    """,
    ),
    kind(
        "drink",
        "source drunk taste served lovers kept",
        rows="""
    ~water | clear | deep wells | all day | fresh | in a glass | all people | in a bucket
    ~tea | hot | dried leaves | in the afternoon | bitter | in a thin cup | old friends | in a box
    ~coffee | dark | brown beans | in the morning | bitter | in a small cup | tired people | in a jar
    ~milk | white | cows and goats | at breakfast | mild | in a mug | children and cats | in the cellar
    ~juice | fruity | ripe fruit | at breakfast | sweet | in a glass | children | in a bottle
    ~beer | foamy | corn and water | in the evening | bitter | in a large mug | farmers | in a barrel
    ~wine | red | ripe grapes | at weddings | rich | in a thin glass | rich people | in a barrel
    ~cider | sparkling | ripe apples | in autumn | fresh | in a mug | farmers | in a barrel
    ~cocoa | sweet | beans and milk | in winter | sweet and rich | in a large cup | children | in a box
    """,
    ),
    kind(
        "tool",
        "use material user kept part colour",
        rows="""
    hammer | heavy | hitting nails | wood and iron | the carpenter | in a box | a hard head | grey
    saw | jagged | cutting wood | iron | the carpenter | on the wall | many small teeth | grey
    axe | sharp | chopping wood | wood and iron | the farmer | in the shed | a long handle | grey and brown
    knife | thin | cutting bread | iron | the cook | in a drawer | a smooth blade | grey
    spade | flat | digging holes | wood and iron | the gardener | in the shed | a wide blade | brown
    rake | wide | gathering leaves | wood | the gardener | in the shed | long teeth | brown
    broom | bushy | sweeping the floor | wood and straw | the maid | behind the door | a long handle | yellow
    needle | tiny | sewing clothes | iron | the tailor | in a small box | a sharp point | grey
    ladder | tall | reaching the roof | wood | the painter | behind the house | many steps | brown
    brush | soft | painting walls | wood and hair | the painter | in a jar | a short handle | brown
    chisel | narrow | carving stone | iron | the mason | in a box | a sharp edge | grey
    key | small | opening doors | iron | the guard | on a ring | a few teeth | grey
    lamp | bright | lighting dark rooms | glass and iron | the miner | on a hook | a small flame | yellow
    pen | inky | writing letters | wood and iron | the clerk | on the desk | a thin point | black
    sickle | curved | cutting corn | wood and iron | the farmer | in the barn | a sharp edge | grey
    plough | strong | turning the soil | wood and iron | the farmer | in the barn | a large blade | brown
    spoon | round | eating soup | silver or wood | the guest | in a drawer | a long handle | silver
    fork | pointed | eating meat | silver | the guest | in a drawer | four sharp points | silver
    net | light | catching fish | rope | the fisherman | on the beach | many small holes | green
    """,
    ),
    kind(
        "instrument",
        "played material kept part sound heard",
        rows="""
    violin | delicate | with a bow | fine wood | in a case | four strings | sweet | at weddings
    drum | loud | with two sticks | wood and skin | on the floor | a round body | deep and hard | in the street
    flute | slender | with the lips | silver | in a case | many small holes | high and clear | in the theatre
    guitar | popular | with the fingers | light wood | on the wall | six strings | warm | round the fire
    harp | tall | with both hands | wood and gold | in the hall | many strings | soft | in castles
    trumpet | bright | with strong breath | copper | in a case | three buttons | clear and loud | in the street
    horn | curved | with strong breath | copper | on a hook | a wide mouth | deep and warm | in the forest
    bell | ringing | with a rope | copper and tin | in a tower | a heavy tongue | loud and clear | on Sundays
    piano | large | with ten fingers | dark wood | in the hall | black and white keys | full and rich | in the theatre
    organ | huge | with hands and feet | wood and tin | in the church | many pipes | deep and loud | on Sundays
    cello | deep | with a bow | dark wood | in a case | four thick strings | deep and warm | in the theatre
    banjo | merry | with the fingers | wood and skin | on the wall | a round body | dry and high | in the inn
    lute | ancient | with the fingers | light wood | in a case | a bent neck | soft and sweet | in castles
    whistle | shrill | with the lips | tin | in a pocket | one small hole | very high | in the street
    """,
    ),
    kind(
        "vehicle",
        "moves carries driver kept part power",
        rows="""
    car | fast | on roads | families | the owner | in a garage | four wheels | oil
    train | long | on rails | people and goods | the driver | in the station | many coaches | coal
    bus | crowded | on town roads | many people | the driver | in a large hall | many seats | oil
    boat | small | on lakes | two or three people | the fisherman | on the beach | two oars | strong arms
    ship | huge | across the sea | heavy goods | the captain | in the harbour | tall masts | the wind
    bike | light | on narrow paths | one person | the rider | in the shed | two wheels | strong legs
    cart | wooden | on farm tracks | hay and corn | the farmer | in the barn | two large wheels | a horse
    tram | modern | through the town | people | the driver | in a large hall | wide doors | a long wire
    plane | flying | through the sky | travellers | the pilot | in a large hall | two wide wings | strong engines
    truck | strong | on wide roads | stones and sand | the driver | in the yard | six big wheels | oil
    sled | gliding | on snow | children | the child | in the shed | two smooth runners | a steep hill
    tractor | slow | over the fields | hay and soil | the farmer | in the barn | big back wheels | oil
    canoe | narrow | on wild rivers | one or two people | the hunter | by the river | a pointed front | strong arms
    ferry | wide | across the river | cars and people | the captain | in the harbour | a flat deck | strong engines
    raft | flat | down the river | wood and goods | the woodman | by the river | long logs | the river
    balloon | round | through the sky | two or three people | the pilot | in the barn | a large basket | hot air
    rocket | fiery | into the sky | brave people | the pilot | on a tower | a pointed top | burning fuel
    """,
    ),
    kind(
        "garment",
        "worn material wearers needed part kept",
        rows="""
    hat | broad | on the head | thick wool | farmers | in summer | a wide edge | on a hook
    cap | flat | on the head | soft wool | drivers | in spring | a short front | on a hook
    scarf | long | round the neck | soft wool | children | in winter | soft ends | in a drawer
    coat | warm | over other clothes | thick wool | travellers | in winter | big buttons | behind the door
    glove | snug | on the hand | soft leather | riders | in cold weather | five fingers | in a drawer
    shirt | light | under a coat | cotton | clerks | all year | a stiff collar | in the cupboard
    dress | pretty | at feasts | silk | singers | at weddings | short sleeves | in the cupboard
    skirt | wide | round the legs | cotton | dancers | in summer | many folds | in the cupboard
    sock | soft | on the foot | wool | all people | in winter | a round heel | in a drawer
    shoe | sturdy | on the foot | leather | all people | all year | a hard heel | under the bed
    boot | high | on the foot | thick leather | soldiers | in mud and snow | a thick heel | by the door
    belt | narrow | round the waist | leather | soldiers | all year | a metal ring | on a hook
    apron | practical | over a dress | strong cotton | cooks | in the kitchen | two long bands | on a hook
    cloak | dark | over other clothes | heavy wool | shepherds | on cold nights | a deep hood | behind the door
    tie | elegant | round the neck | silk | judges | on Sundays | a narrow knot | in the cupboard
    helmet | hard | on the head | iron | soldiers | in danger | a strong band | on a shelf
    mitten | thick | on the hand | wool | children | in the snow | one big thumb | in a pocket
    shawl | knitted | over the back | fine wool | old people | on cold evenings | soft ends | in a chest
    """,
    ),
    kind(
        "building",
        "stands built use visitors part open",
        rows="""
    school | lively | beside the church | brick | learning | children | a big yard | in the morning
    church | quiet | on the square | stone | praying | families | a tall tower | on Sundays
    mill | turning | on a windy hill | wood | grinding corn | farmers | four large sails | all day
    barn | wide | on the farm | wood | storing hay | farmers | big doors | all day
    castle | ancient | on a hill | thick stone | guarding the land | knights | high walls | in summer
    inn | cosy | by the road | stone and wood | eating and sleeping | travellers | many small rooms | at night
    shop | small | in the street | brick | selling goods | all people | a large window | all day
    library | silent | on the square | brick | reading books | clerks and children | many shelves | in the afternoon
    prison | gloomy | behind the court | thick stone | locking up thieves | guards | narrow windows | all year
    station | busy | beside the rails | brick and iron | catching trains | travellers | a big clock | all day
    theatre | festive | in the town | brick | playing stories | families | rows of seats | in the evening
    factory | noisy | behind the town | brick and iron | making goods | workers | tall chimneys | all day
    stable | warm | behind the inn | wood | keeping horses | riders | a low door | in the morning
    palace | splendid | in a large park | white stone | feasts | rich people | golden doors | in summer
    hut | simple | in the forest | wood and straw | resting | hunters | one small room | all year
    tower | tall | above the harbour | stone | watching the sea | guards | many steps | at night
    """,
    ),
    kind(
        "worker",
        "works deed uses wears starts clients",
        pronoun="who",
        rows="""
    baker | early | in a warm kitchen | bakes bread | a hot oven | a white apron | at night | hungry people
    smith | strong | beside a hot fire | shapes iron | a heavy hammer | a leather apron | in the morning | riders
    farmer | hardy | in the fields | grows corn | a plough | old boots | in the early morning | the whole village
    miller | dusty | in the mill | grinds corn | a round stone | a white cap | in the morning | farmers and bakers
    tailor | careful | in a small room | sews coats | a fine needle | a fine shirt | in the morning | rich people
    nurse | gentle | beside the sick bed | cares for the sick | clean water | a white cap | at night | sick people
    doctor | learned | in many houses | heals the sick | good medicine | a dark coat | at all hours | sick people
    teacher | patient | in the school | explains the world | chalk and books | a plain dress | in the morning | children
    cook | creative | in the kitchen | prepares meals | pots and knives | a white apron | at noon | hungry people
    sailor | brave | on a ship | climbs the masts | strong ropes | a striped shirt | at all hours | the captain
    fisherman | quiet | on the lake | catches fish | a net | high boots | at night | cooks and families
    hunter | silent | in the forest | follows tracks | a bow | a green coat | in the evening | cooks and butchers
    judge | fair | in the court | ends quarrels | thick books | a black cloak | in the afternoon | the whole village
    guard | watchful | at the gate | watches the town | a lamp | a helmet | at night | rich people
    clerk | tidy | at a desk | writes long lists | a pen | a clean shirt | in the morning | the judge
    painter | colourful | in bright rooms | paints walls | a soft brush | an old shirt | in the afternoon | families
    mason | skilled | on high walls | builds walls | a chisel | thick gloves | in the morning | the whole town
    carpenter | handy | in a large shed | makes chairs | a saw | a brown apron | in the morning | families
    potter | muddy | beside a hot oven | shapes clay | a turning wheel | an old apron | in the afternoon | cooks
    barber | chatty | in a small shop | cuts hair | a sharp knife | a clean apron | in the morning | old and young men
    miner | dirty | deep under the hill | digs for coal | a lamp | a hard helmet | in the early morning | smiths
    pilot | daring | high in the sky | flies planes | maps | a leather cap | at all hours | travellers
    singer | famous | in the theatre | sings old songs | a clear voice | a silk dress | in the evening | families
    shepherd | lonely | on the hill | guards the flock | a long stick | a warm cloak | in the early morning | farmers
    butcher | burly | in a cold shop | cuts meat | a large knife | a red apron | in the morning | cooks and families
    """,
    ),
    kind(
        "mineral",
        "found colour use feel user kept",
        rows="""
    ~gold | precious | in rivers | yellow | rings | smooth and heavy | the rich man | in a chest
    ~silver | shining | in deep mines | grey and white | spoons | smooth and cool | the rich man | in a chest
    ~iron | strong | in red rocks | grey | tools and gates | hard and cold | the smith | in the yard
    ~copper | reddish | in deep mines | light brown | pots and wires | smooth and cold | the smith | in the yard
    ~salt | tasty | by the sea | white | soup and meat | rough and dry | the cook | in a jar
    ~coal | black | in deep mines | black | fires | rough and dusty | the smith | in the cellar
    ruby | red | in warm lands | dark red | rings and crowns | hard and smooth | the queen | in a small box
    ~clay | soft | by the river | brown | pots and bricks | wet and cool | the potter | in a bucket
    ~chalk | dusty | in white rocks | white | writing | soft and dry | the teacher | in a box
    ~marble | polished | in the mountains | white | floors and stairs | smooth and cold | the mason | in the yard
    ~granite | spotted | in the mountains | grey | bridges | hard and rough | the mason | in the yard
    ~slate | flat | in wet hills | dark grey | roofs | smooth and flat | the mason | behind the house
    ~tin | cheap | in wet rocks | light grey | plates and toys | light and cool | the smith | on a shelf
    ~flint | sharp | in white rocks | dark grey | lighting fires | hard and sharp | the hunter | in a pocket
    diamond | hard | in deep mines | white | rings | cold and hard | the queen | in a small box
    ~jade | green | in far lands | green | gifts | smooth and cool | the rich man | on a shelf
    """,
    ),
    kind(
        "weather",
        "comes origin brings wear lovers deed",
        singular="kind of weather",
        plural="kinds of weather",
        rows="""
    ~rain | wet | in autumn | grey clouds | fresh water | a coat | ducks and frogs | falls on the roof
    ~snow | white | in winter | low clouds | white roofs | thick boots | children | covers the fields
    ~fog | thick | in the morning | wet air | quiet streets | bright clothes | thieves | hides the road
    storm | wild | in autumn | the sea | broken trees | a strong coat | brave sailors | shakes the trees
    ~wind | restless | in spring | the sea | fresh air | a scarf | millers and sailors | turns the mill
    ~hail | hard | in summer | dark clouds | broken windows | a hard hat | few people | hits the roof
    ~frost | icy | at night | cold clear air | hard ground | thick gloves | children | covers the windows
    ~thunder | loud | in summer | dark clouds | fear | a dry coat | brave children | shakes the windows
    ~sunshine | bright | in summer | a clear sky | warm days | a broad hat | cats and old people | warms the land
    breeze | gentle | in the evening | the lake | cool air | a light shirt | tired workers | moves the leaves
    ~mist | pale | in autumn | wet fields | soft light | a warm scarf | painters | lies over the lake
    """,
    ),
    kind(
        "toy",
        "use material player kept part colour",
        rows="""
    ball | round | throwing and catching | leather | the child | in the garden | a smooth skin | red
    doll | pretty | playing at home | wood and cotton | the child | on the bed | long hair | pink
    kite | flying | playing in the wind | paper and wood | the child | in the shed | a long tail | red and yellow
    top | spinning | playing on the floor | wood | the child | in a pocket | a sharp point | blue
    puzzle | tricky | thinking | thick paper | the clever child | in a flat box | many small parts | green and blue
    puppet | funny | playing stories | wood and cotton | the child | in a chest | long strings | red and blue
    rattle | noisy | pleasing the baby | wood and seeds | the baby | in the cradle | a short handle | yellow
    hoop | rolling | running in the street | wood | the child | in the yard | a thin edge | brown
    swing | hanging | flying through the air | wood and rope | the child | in the garden | two long ropes | green
    """,
    ),
    kind(
        "furniture",
        "use material user stands part colour",
        singular="piece of furniture",
        plural="pieces of furniture",
        rows="""
    chair | simple | sitting at the table | wood | the guest | in the kitchen | four thin legs | brown
    table | broad | eating meals | thick wood | the family | in the kitchen | four strong legs | brown
    bed | comfortable | sleeping | wood and straw | the tired child | in a quiet room | a soft blanket | white
    sofa | soft | resting | wood and leather | the guest | by the fire | two arms | red
    desk | tidy | writing letters | dark wood | the clerk | by the window | many drawers | dark brown
    bench | long | sitting in the sun | wood or stone | the old man | before the house | a straight back | green
    stool | low | milking cows | light wood | the maid | in the stable | three short legs | light brown
    shelf | narrow | keeping books | wood | the teacher | on the wall | straight boards | brown
    cupboard | tall | keeping clothes | dark wood | the maid | by the wall | two doors | dark brown
    chest | heavy | keeping old things | wood and iron | the grandmother | under the window | a strong lock | black
    cradle | rocking | calming small children | light wood | the mother | beside the bed | high sides | white
    """,
    ),
    kind(
        "container",
        "use material user kept part colour",
        rows="""
    cup | small | drinking tea | fine clay | the guest | on a shelf | a small handle | white
    jar | sealed | keeping jam | glass | the cook | on a shelf | a tight lid | light green
    basket | woven | carrying eggs | willow branches | the maid | by the door | a curved handle | light brown
    barrel | fat | keeping beer | wood and iron | the innkeeper | in the cellar | iron rings | brown
    bottle | slender | keeping wine | glass | the innkeeper | in the cellar | a narrow neck | green
    bucket | open | carrying water | wood or tin | the farmer | by the well | a wire handle | grey
    sack | rough | carrying corn | strong cotton | the miller | in the mill | a tied mouth | light brown
    box | square | keeping small things | thin wood | the clerk | under the bed | a flat lid | brown
    pot | heavy | cooking soup | iron | the cook | over the fire | two short handles | black
    bowl | round | eating porridge | clay or wood | the child | on the table | a smooth edge | brown
    purse | secret | keeping coins | soft leather | the rich man | under the cloak | a thin cord | black
    vase | elegant | showing flowers | fine glass | the grandmother | by the window | a thin neck | blue
    kettle | whistling | heating water | copper | the maid | over the fire | a bent nose | reddish brown
    """,
    ),
)

THINGS = tuple(thing for kind_of_thing in KINDS for thing in things_of(kind_of_thing))
